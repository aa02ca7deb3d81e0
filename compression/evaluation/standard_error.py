"""Standard errors of the engine's own validation scores and losses; `scoring` has those of reported scores."""

import math

import numpy as np
import torch
from torch import nn

from compression.evaluation.validate import logits
from compression.modalities.base import Examples
from compression.modalities.scoring.standard_errors import of_ratio

GROUPS = 20
"""Groups of rows for the jackknife. With this many, the standard error is accurate to about a sixth of itself."""
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Factors on the logits before the loss, to find the loss of a calibrated model."""


def standard_error(model: nn.Module, rows: Examples, parts: int = 1) -> float:
    """Return the standard error of `validate`'s result for a model, in the units of `Validation.worth`.

    Uses a delete-a-group jackknife over rows (Kott 2001), which needs no formula for the metric; windows of one question stay
    together. For a language model it is the standard error of the mean loss, as a ratio over groups of packed rows. 0 if there
    is only one row.
    """
    of_group = _groups(rows)
    groups = int(of_group.max()) + 1
    if groups < 2:
        return 0.0
    if (packed := rows.task.packed) is not None:
        some = [rows.at(_of(of_group, group)) for group in range(groups)]
        losses = [packed.loss(model, one, parts) * packed.count(one) for one in some]
        return of_ratio(losses, [packed.count(one) for one in some]) or 0.0
    found = logits(model, rows, parts)
    scores = []
    for group in range(groups):
        left = torch.nonzero(of_group != group)[:, 0]
        scores.append(rows.task.score(found[left], rows.at(left.tolist())))
    return math.sqrt((groups - 1) * float(np.var(scores)))


def group_losses(model: nn.Module, rows: Examples, parts: int = 1) -> torch.Tensor:
    """Return a model's loss on each group of rows, (groups,), to compare two models group by group.

    For a language model this is the plain loss, otherwise the loss with logits multiplied by the best of SHARES: on few rows, a
    model that has learned more is also overconfident, so its plain loss is higher (Guo et al. 2017).
    """
    of_group = _groups(rows)
    some = [rows.at(_of(of_group, group)) for group in range(int(of_group.max()) + 1)]
    found = torch.tensor([_losses(model, one, parts) for one in some])
    return found[:, int(found.mean(dim=0).argmin())]


def _losses(model: nn.Module, rows: Examples, parts: int) -> list[float]:
    if (packed := rows.task.packed) is not None:
        return [packed.loss(model, rows, parts)]
    found, whole = logits(model, rows, parts), rows.batch(list(range(len(rows))))
    return [rows.task.loss(found * share, whole).item() for share in SHARES]


def _groups(rows: Examples) -> torch.Tensor:
    """Return the group of each row, of at most GROUPS groups, (rows,)."""
    owners = _owners(rows)
    count = int(owners.max()) + 1
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[owners] % min(GROUPS, count)


def _of(of_group: torch.Tensor, group: int) -> list[int]:
    found: list[int] = torch.nonzero(of_group == group)[:, 0].tolist()
    return found


def _owners(rows: Examples) -> torch.Tensor:
    """Return the unit of each row, (rows,): a question may have several rows, all else is one row each."""
    found = getattr(rows.references, "owners", None)
    return torch.arange(len(rows)) if found is None else torch.from_numpy(np.unique(found, return_inverse=True)[1])
