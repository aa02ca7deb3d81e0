"""Logits of all rows of a split in one tensor, filled batch by batch."""

import torch
from torch import Tensor

from compression.modalities.base import Batch, Examples


def store_logits(store: Tensor | None, batch: Batch, answers: Tensor, rows: Examples) -> Tensor:
    """Write a batch's logits into `store` at their row indices, and return it; None allocates it first.

    answers: (rows of the batch, [positions,] n) -> (rows, [positions of the longest row,] n), zeros at padding, float32.
    """
    if store is None:
        positions = (max(rows.lengths),) if answers.ndim == 3 else ()
        store = torch.zeros((len(rows), *positions, answers.shape[-1]))
    if answers.ndim == 3:
        store[batch.rows, : answers.shape[1]] = answers.float().cpu()
    else:
        store[batch.rows] = answers.float().cpu()
    return store


def stored_logits(store: Tensor, batch: Batch) -> Tensor:
    """Return the stored logits of a batch's rows, cut to the batch's width."""
    found = store[batch.rows]
    return found[:, : batch.mask.shape[1]] if found.ndim == 3 else found
