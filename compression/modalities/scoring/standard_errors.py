"""Standard errors: by formula for means over rows and ratios, else by bootstrap (Efron 1979).

What is the same on all rows, or on all samples of them, is not certain: its error is then that of one more row, `of_unseen`.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
SAME = 1e-12  #: values that deviate less are the same but for rounding
SEED = 0

Indices = npt.NDArray[np.int64]


def of_unseen(rows: int) -> float:
    """Return the standard error of what does not vary: how far a share lies from 0 or 1 after a right and a wrong row more
    (Laplace's rule), about the deviation of the share's posterior.
    """
    return 1 / (rows + 2)


def of_share(share: float, rows: int) -> float:
    """Return the standard error of a share, √(p(1 − p)/n)."""
    return float(np.sqrt(share * (1 - share) / rows)) or of_unseen(rows)


def of_mean(values: npt.ArrayLike) -> float:
    """Return the standard error of a mean over rows, s/√n. values: (rows,), each within 0 and 1."""
    numbers = np.asarray(values, np.float64)
    spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
    return spread / float(np.sqrt(len(numbers))) if spread > SAME else of_unseen(len(numbers))


def of_ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> float | None:
    """Return the standard error of Σ above / Σ below over clusters of dependent values; None for a single cluster.

    above, below: (clusters,), below positive. Linearised (Cochran 1977, section 6.3): √(c/(c − 1) Σ (aᵢ − r bᵢ)²) / Σ b.
    """
    tops, bottoms = np.asarray(above, np.float64), np.asarray(below, np.float64)
    clusters, whole = len(tops), bottoms.sum()
    if clusters < 2:
        return None
    apart = tops - tops.sum() / whole * bottoms
    return float(np.sqrt(clusters / (clusters - 1) * np.square(apart).sum()) / whole)


def resampled(
    statistics: Callable[[Indices], Mapping[str, float]], rows: int, *, seed: int = SEED
) -> dict[str, npt.NDArray[np.float64]]:
    """Compute statistics on RESAMPLES samples of `rows` rows, drawn with replacement. -> (RESAMPLES,) of each.

    The same seed and number of rows give the same samples. statistics: takes the indices of a sample's rows, (rows,).
    """
    draw = np.random.default_rng(seed)
    draws = [statistics(draw.integers(0, rows, rows)) for _ in range(RESAMPLES)]
    return {name: np.array([one[name] for one in draws]) for name in draws[0]}


def deviations(draws: Mapping[str, npt.NDArray[np.float64]], rows: int) -> dict[str, float]:
    """Return the standard deviation of each statistic over its draws, which are samples of `rows` rows."""
    found = {name: float(np.std(each, ddof=1)) for name, each in draws.items()}
    return {name: one if one > SAME else of_unseen(rows) for name, one in found.items()}
