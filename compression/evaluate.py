"""Ask the engine's own model: for choices on validation and for verifying exports. Reported scores come from the artifact."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compression.batches import Encoded, put

BATCH = 64
"""Rows asked together; answers do not depend on it, because scales are per token."""


@dataclass(frozen=True, order=True)
class Validation:
    """How good a model is on validation; of equal scores the one with the lower loss is better."""

    score: float
    negative_loss: float


def smaller(batch: int, parts: int) -> int:
    """Return the size of a part of a batch, where memory did not suffice for all of it at once."""
    return max(1, batch // parts)


@torch.inference_mode()
def logits(model: nn.Module, rows: Encoded, parts: int = 1) -> Tensor:
    """Return the logits of all rows in their order; `parts` shrinks the batches.

    -> (rows, labels), or (rows, tokens, …) with zeros at padding, in float32 on the CPU.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    out = None
    for batch in rows.by_length(smaller(BATCH, parts)):
        out = put(out, batch, rows.task.logits(model(**batch.to(device).inputs)), rows)
    model.train(training)
    assert out is not None, "a split has rows"  # noqa: S101
    return out


def validate(model: nn.Module, rows: Encoded, parts: int = 1) -> Validation:
    """Score a model on a split by its task's metric; `parts` shrinks the batches."""
    found = logits(model, rows, parts)
    whole = rows.batch(list(range(len(rows))))
    return Validation(rows.task.score(found, rows), -rows.task.loss(found, whole).item())
