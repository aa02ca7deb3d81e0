"""Standard errors of the engine's own validation scores and losses; `scoring` has those of reported scores."""

import math

import numpy as np
import torch
from torch import nn

from compression.evaluation.validate import Validation, logits, validation_of
from compression.modalities.base import Examples
from compression.modalities.scoring.standard_errors import of_ratio

GROUPS = 20  #: Groups of rows for the jackknife. With this many, the standard error is accurate to about a sixth of itself.
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)  #: factors on the logits before the loss, to find the loss of a calibrated model


def standard_error(model: nn.Module, rows: Examples, parts: int = 1) -> float:
    """Return the standard error of `validate`'s result, in the units of `Validation.worth`; 0 of a single row.

    Uses a delete-a-group jackknife over rows (Kott 2001), which needs no formula for the metric; windows of one question stay
    together. For a language model it is that of the mean loss, as a ratio over groups of packed rows.
    """
    members = _members(rows)
    if len(members) < 2:
        return 0.0
    if (packed := rows.task.packed) is not None:
        groups = [rows.at(_numbers(one)) for one in members]
        losses = [packed.loss(model, one, parts) * packed.count(one) for one in groups]
        return of_ratio(losses, [packed.count(one) for one in groups]) or 0.0
    answers = logits(model, rows, parts)
    scores = [rows.task.score(answers[~one], rows.at(_numbers(~one))) for one in members]
    return math.sqrt((len(members) - 1) * float(np.var(scores)))


def answers_of(model: nn.Module, rows: Examples, parts: int = 1) -> torch.Tensor:
    """Return all rows' logits, or a language model's loss on each group of rows, (groups,)."""
    if (packed := rows.task.packed) is None:
        return logits(model, rows, parts)
    losses = [packed.loss(model, rows.at(_numbers(one)), parts) for one in _members(rows)]
    return torch.tensor(losses, dtype=torch.float64)


def judged(answers: torch.Tensor, rows: Examples) -> Validation:
    """Score what `answers_of` returned. A language model's is `validate`'s but for rounding: its groups' tokens are summed."""
    if rows.task.packed is None:
        return validation_of(answers, rows)
    counts = _counts(rows)
    loss = float((counts * answers.numpy()).sum() / counts.sum())
    return Validation(math.exp(-loss), -loss, inverse=True)


def scores_without(answers: torch.Tensor, rows: Examples) -> np.ndarray:
    """Return a model's score without each group of rows, (groups,): of a perplexity its inverse. answers: `answers_of` it."""
    if rows.task.packed is not None:
        counts = _counts(rows)
        losses = counts * answers.numpy()
        without: np.ndarray = np.exp((losses - losses.sum()) / np.maximum(counts.sum() - counts, 1.0))
        return without
    return np.array([rows.task.score(answers[~one], rows.at(_numbers(~one))) for one in _members(rows) if not one.all()])


def kept_error(after: np.ndarray, before: np.ndarray) -> float:
    """Return the standard error of the share of an original's score that a model keeps: of both scores on the same rows, by the
    same jackknife. 0 of a single row, or if the original scores nothing. after, before: `scores_without` of model and original.
    """
    if len(before) < 2:
        return 0.0
    shares = np.where(before > 0, after / np.where(before > 0, before, 1.0), 0.0)
    return math.sqrt((len(before) - 1) * float(np.var(shares)))


def _counts(rows: Examples) -> np.ndarray:
    """Return the scored tokens of each group of a language model's rows, (groups,)."""
    packed = rows.task.packed
    assert packed is not None  # noqa: S101
    return np.array([packed.count(rows.at(_numbers(one))) for one in _members(rows)], dtype=float)


def group_losses(model: nn.Module, rows: Examples, parts: int = 1) -> torch.Tensor:
    """Return a model's loss on each group of rows, (groups,), to compare two models group by group.

    For a language model this is the plain loss, otherwise that of logits multiplied by the best of SHARES: on few rows, a model
    that has learned more is also overconfident, so its plain loss is higher (Guo et al. 2017).
    """
    losses = torch.tensor([_losses(model, rows.at(_numbers(one)), parts) for one in _members(rows)])
    return losses[:, int(losses.mean(dim=0).argmin())]


def _losses(model: nn.Module, rows: Examples, parts: int) -> list[float]:
    if (packed := rows.task.packed) is not None:
        return [packed.loss(model, rows, parts)]
    answers, whole = logits(model, rows, parts), rows.without_inputs()
    return [rows.task.loss(answers * share, whole).item() for share in SHARES]


def _members(rows: Examples) -> list[torch.Tensor]:
    """Return which rows each of at most GROUPS groups has, (rows,) bool each."""
    owners = getattr(rows.references, "owners", None)  # a question may have several rows, all else is one row each
    units = torch.arange(len(rows)) if owners is None else torch.from_numpy(np.unique(owners, return_inverse=True)[1])
    count = int(units.max()) + 1
    groups = torch.randperm(count, generator=torch.Generator().manual_seed(0))[units] % min(GROUPS, count)
    return [groups == group for group in range(int(groups.max()) + 1)]


def _numbers(chosen: torch.Tensor) -> list[int]:
    return [int(number) for number in torch.nonzero(chosen)[:, 0]]
