"""Scores of answers, and confidence intervals of kept shares. Pure functions of arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compression.modalities.scoring import metrics
from compression.modalities.scoring.standard_errors import deviations, resampled

Floats = npt.NDArray[np.float64]
Metric = Callable[[Floats, Floats], float]

DRAWS = 2000
"""Resamples, so that the 2.5th percentile rests on fifty of them."""


def accuracy(answers: Floats, wanted: Floats) -> float:
    """Share of rows that are right."""
    return float((answers == wanted).mean())


def accuracy_and_f1(answers: Floats, wanted: Floats) -> float:
    """GLUE's figure for MRPC: the mean of accuracy and F1 of label 1, each (rows,) of label ids."""
    counts = metrics.label_counts(answers.astype(np.int64), wanted.astype(np.int64), 2)
    return (metrics.accuracy(counts) + metrics.f1(counts, 1)) / 2


def correlation(answers: Floats, wanted: Floats) -> float:
    """GLUE's figure for STS-B: the mean of Pearson's and Spearman's correlation."""
    return (metrics.pearson(answers, wanted) + metrics.spearman(answers, wanted)) / 2


METRICS: dict[str, Metric] = {
    **dict.fromkeys(("sst2", "rte", "banking77", "demo", "tweets", "editorials", "intents", "negations"), accuracy),
    "mrpc": accuracy_and_f1,
    "stsb": correlation,
}
"""By the name of a set, those of other benches too."""


@dataclass(frozen=True)
class Answers:
    """Models' answers to one set's test rows. wanted: (rows,); by_model: name → (seeds, rows)."""

    wanted: Floats
    by_model: dict[str, Floats]


@dataclass(frozen=True)
class Kept:
    """Scores averaged over the sets, and the share kept with its 95 % interval."""

    before: float
    after: float
    share: float
    low: float
    high: float


def mean_score(
    found: dict[str, Answers],
    model: str,
    rows: dict[str, npt.NDArray[np.int64]] | None = None,
    seeds: npt.NDArray[np.int64] | None = None,
) -> float:
    """Average a model's score over seeds, then over sets. `rows` takes a resample of each set instead of all rows; seeds: the
    places of those that count, with repeats.
    """
    out = []
    for name, answers in found.items():
        chosen = rows[name] if rows else np.arange(len(answers.wanted))
        wanted = answers.wanted[chosen]
        some = answers.by_model[model] if seeds is None else answers.by_model[model][seeds]
        out.append(np.mean([METRICS[name](said[chosen], wanted) for said in some]))
    return float(np.mean(out))


def constant_score(name: str, wanted: Floats) -> float:
    """Score the best answer that is the same for every row of a set. wanted: (rows,)."""
    return max(METRICS[name](np.full_like(wanted, value), wanted) for value in np.unique(wanted))


def standard_error(name: str, said: Floats, wanted: Floats) -> float:
    """Return the bootstrap's standard error of a score. said, wanted: (rows,)."""
    draws = resampled(lambda rows: {"score": METRICS[name](said[rows], wanted[rows])}, len(wanted))
    return deviations(draws, len(wanted))["score"]


def at_chance(found: dict[str, Answers], original: str) -> list[str]:
    """Return the sets on which no original scores more than two standard errors above the best constant answer.

    An original that learned nothing there cannot show what compression loses.
    """
    return [
        name
        for name, answers in found.items()
        if all(
            METRICS[name](said, answers.wanted) - constant_score(name, answers.wanted)
            <= 2 * standard_error(name, said, answers.wanted)
            for said in answers.by_model[original]
        )
    ]


def kept(
    found: dict[str, Answers], original: str, model: str, draws: int = DRAWS, seed: int = 0, *, over_seeds: bool = False
) -> Kept:
    """Compare a model's mean score with the original's: a paired bootstrap over test rows (Efron & Tibshirani 1993).

    Both are scored on the same resample each time, so what is hard for both cancels out. Seeds are not resampled: the interval
    is that of other test rows for these very models. over_seeds: they are too, the same for both and for all sets.
    """
    before, after = mean_score(found, original), mean_score(found, model)
    generator = np.random.default_rng(seed)
    runs = min(len(answers.by_model[model]) for answers in found.values())
    shares = []
    for _ in range(draws):
        rows = {name: generator.integers(0, len(answers.wanted), len(answers.wanted)) for name, answers in found.items()}
        seeds = generator.integers(0, runs, runs) if over_seeds else None
        shares.append(mean_score(found, model, rows, seeds) / mean_score(found, original, rows, seeds))
    low, high = np.percentile(shares, [2.5, 97.5])
    return Kept(before, after, after / before, float(low), float(high))


def differences(
    found: dict[str, Answers], model: str, other: str, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Score of `model` minus that of `other`, in points of 100, with its 95 % interval by the same bootstrap."""
    generator = np.random.default_rng(seed)
    gaps = []
    for _ in range(draws):
        rows = {name: generator.integers(0, len(answers.wanted), len(answers.wanted)) for name, answers in found.items()}
        gaps.append(mean_score(found, model, rows) - mean_score(found, other, rows))
    low, high = np.percentile(gaps, [2.5, 97.5])
    return 100 * (mean_score(found, model) - mean_score(found, other)), 100 * float(low), 100 * float(high)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean, for ratios."""
    return float(np.exp(np.mean(np.log(np.asarray(values, np.float64)))))
