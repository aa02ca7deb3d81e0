"""Feature losses of hidden states, attention scores and relations. Pure functions of tensors."""

from collections.abc import Iterable

import torch
from torch import Tensor

from compression.modalities.losses import summed_relation_loss

LEAST_SQUARE = 1e-12
"""Least mean square that errors are relative to: states that vanish, as of a deep network that was never trained, would give
gradients without bound."""


def hidden_state_loss(student: Tensor, teacher: Tensor, projections: Tensor) -> Tensor:
    """Return the relative squared error of hidden states through learned projections (TinyBERT, Jiao et al. 2020).

    student: (layers, tokens, narrow), teacher: (layers, tokens, wide), projections: (layers, narrow, wide) -> scalar: the mean
    squared error over the teacher's mean square; 1 is as bad as predicting 0.
    """
    size = teacher.square().mean().clamp_min(LEAST_SQUARE)
    error: Tensor = (torch.bmm(student, projections) - teacher).square().mean() / size
    return error


def attention_score_loss(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Return the mean squared error of attention scores before the softmax (TinyBERT, Jiao et al. 2020, eq. 7).

    student: (layers, 2, rows, tokens, narrow), teacher: (layers, 2, rows, tokens, wide), of queries and keys; mask: (rows,
    tokens); heads: of each model -> scalar, mean over layers, heads and pairs of real tokens. Scores are query · key / √(head
    size), without additive terms (MPNet's relative position bias).
    """
    real = (mask[:, :, None] * mask[:, None, :])[:, None].to(student.dtype)
    total = student.new_zeros(())
    for given, wanted in zip(student, teacher, strict=True):  # layer by layer: scores grow with tokens²
        apart = _scores(given, heads) - _scores(wanted, heads)
        total = total + (apart.square() * real).sum()
    mean: Tensor = total / (real.sum() * heads * len(student))
    return mean


def _scores(pair: Tensor, heads: int) -> Tensor:
    _, rows, tokens, width = pair.shape
    size = width // heads
    query, key = pair.view(2, rows, tokens, heads, size).transpose(2, 3)
    scores: Tensor = query @ key.transpose(-1, -2) / size**0.5
    return scores


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Return the KL divergence of self-attention relations (MiniLMv2, Wang et al. 2021).

    student: (kinds, rows, tokens, narrow), teacher: (kinds, rows, tokens, wide), of queries, keys and values; mask: (rows,
    tokens); heads: relation heads, which must divide both widths -> scalar in nats, mean over kinds, real tokens and heads.
    Models may have different numbers of attention heads.
    """
    return summed_relation_loss(student, teacher, mask, mask[:, None, :], heads) / (mask.sum() * heads * student.shape[0])


def relation_heads(narrow: int, wide: int, most: int) -> int:
    """Return the largest number of relation heads, at most `most`, that divides both widths."""
    return max(heads for heads in range(1, most + 1) if narrow % heads == 0 and wide % heads == 0)


class ProjectionFit:
    """Ridge regression from student to teacher states, batch by batch; only their products are kept."""

    def __init__(self) -> None:
        self._gram: Tensor | None = None
        self._across: Tensor | None = None

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """Add the states of some tokens. student: (layers, tokens, narrow), teacher: (layers, tokens, wide)."""
        gram, across = student.transpose(1, 2) @ student, student.transpose(1, 2) @ teacher
        self._gram = gram if self._gram is None else self._gram + gram
        self._across = across if self._across is None else self._across + across

    def solved(self, ridge: float = 1e-3) -> Tensor:
        """Return the projections, (layers, narrow, wide). ridge: relative to the student's mean square."""
        assert self._gram is not None, "states were added"  # noqa: S101
        assert self._across is not None, "with the other"  # noqa: S101
        strength = (ridge * self._gram.diagonal(dim1=1, dim2=2).mean(dim=1)).clamp_min(torch.finfo(torch.float32).tiny)
        gram = self._gram + strength[:, None, None] * torch.eye(self._gram.shape[-1], device=self._gram.device)
        return torch.cholesky_solve(self._across, torch.linalg.cholesky(gram))


def fit_projections(pairs: Iterable[tuple[Tensor, Tensor]], ridge: float = 1e-3) -> Tensor:
    """Fit projections from student to teacher states by ridge regression -> (layers, narrow, wide).

    pairs: of states of some tokens, (layers, tokens, narrow) and (layers, tokens, wide); only their products are kept.
    """
    fit = ProjectionFit()
    for student, teacher in pairs:
        fit.add(student, teacher)
    return fit.solved(ridge)
