"""How sure a validation score of the engine's own model is. Reported scores have their errors from `scoring`."""

import math

import numpy as np
import torch
from torch import nn

from compression.batches import Encoded
from compression.evaluate import logits, told
from compression.language.rows import TextRows
from compression.scoring.errors import of_ratio

GROUPS = 20
"""Groups of rows that are left out one after the other. The error of so many is itself known to about a sixth."""


def standard_error(model: nn.Module, rows: Encoded, parts: int = 1) -> float:
    """Return the standard error of what `validate` says of a model, in the units of `Validation.worth`.

    By a delete-a-group jackknife over rows (Kott 2001), which needs no formula of the metric; windows of one question stay
    together. Of a language model that of the mean loss, as a ratio over groups of packed rows. 0 where there is only one row.
    """
    owners = _owners(rows)
    groups = min(GROUPS, int(owners.max()) + 1)
    if groups < 2:
        return 0.0
    of_group = torch.randperm(int(owners.max()) + 1, generator=torch.Generator().manual_seed(0))[owners] % groups
    if isinstance(rows, TextRows):
        some = [rows.at(torch.nonzero(of_group == group)[:, 0].tolist()) for group in range(groups)]
        losses = [told(model, one, parts) * one.asked for one in some]
        return of_ratio(losses, [one.asked for one in some]) or 0.0
    found = logits(model, rows, parts)
    scores = []
    for group in range(groups):
        left = torch.nonzero(of_group != group)[:, 0]
        scores.append(rows.task.score(found[left], rows.at(left.tolist())))
    return math.sqrt((groups - 1) * float(np.var(scores)))


def _owners(rows: Encoded) -> torch.Tensor:
    """Return which unit each row belongs to, (rows,): questions have several windows, all else one row each."""
    found = getattr(rows.references, "owners", None)
    return torch.arange(len(rows)) if found is None else torch.from_numpy(np.unique(found, return_inverse=True)[1])
