"""Figures of predictions: how far they are off, whether they rank, and whether their stated error covers what came."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compression.modalities.scoring.metrics import spearman


@dataclass(frozen=True)
class Offs:
    """How far predictions are from what was measured, as a share of that."""

    median: float
    worst: float


def offs(ratios: Sequence[float]) -> Offs:
    """Return how far predictions are off. ratios: predicted / measured."""
    each = [abs(ratio - 1) for ratio in ratios]
    return Offs(statistics.median(each), max(each))


@dataclass(frozen=True)
class Ranked:
    """How well predictions order what came: Spearman's correlation, and how many were within their stated error."""

    correlation: float
    covered: int
    count: int


def ranked(predicted: Sequence[float], errors: Sequence[float], found: Sequence[float]) -> Ranked:
    """Compare predictions with what came. errors: one standard error of each, as it was stated."""
    within = [abs(one - came) <= error for one, error, came in zip(predicted, errors, found, strict=True)]
    return Ranked(spearman(np.array(predicted), np.array(found)), sum(within), len(within))
