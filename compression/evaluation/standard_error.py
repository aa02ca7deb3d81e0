"""How sure a validation score or loss of the engine's own model is. Reported scores have their errors from `scoring`."""

import math

import numpy as np
import torch
from torch import nn

from compression.evaluation.validate import logits
from compression.modalities.base import Examples
from compression.modalities.scoring.standard_errors import of_ratio

GROUPS = 20
"""Groups of rows that are left out one after the other. The error of so many is itself known to about a sixth."""
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""What answers are multiplied by before their loss is taken, to find the loss of a model that is rightly sure of itself."""


def standard_error(model: nn.Module, rows: Examples, parts: int = 1) -> float:
    """Return the standard error of what `validate` says of a model, in the units of `Validation.worth`.

    By a delete-a-group jackknife over rows (Kott 2001), which needs no formula of the metric; windows of one question stay
    together. Of a language model that of the mean loss, as a ratio over groups of packed rows. 0 where there is only one row.
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
    """Return the loss of a model on each of the groups of rows, (groups,): two models' differ group by group.

    Of a language model its plain loss, else that which is left once its answers are multiplied by the best of SHARES: on few
    rows a model that has learned more is also too sure of itself, and its plain loss is the higher one (Guo et al. 2017).
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
    """Return which of at most GROUPS groups each row belongs to, (rows,)."""
    owners = _owners(rows)
    count = int(owners.max()) + 1
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[owners] % min(GROUPS, count)


def _of(of_group: torch.Tensor, group: int) -> list[int]:
    found: list[int] = torch.nonzero(of_group == group)[:, 0].tolist()
    return found


def _owners(rows: Examples) -> torch.Tensor:
    """Return which unit each row belongs to, (rows,): questions have several windows, all else one row each."""
    found = getattr(rows.references, "owners", None)
    return torch.arange(len(rows)) if found is None else torch.from_numpy(np.unique(found, return_inverse=True)[1])
