"""Paired drops: how much worse one model scores than another on the same rows, with one-sided bounds. Torch-free, pure.

Each function returns the drop with a lower and an upper bound, each of which holds with the given confidence. What is 0 on all
rows is not certain to be 0: bounds of bounded metrics count one more row, not seen, that is as bad as a row can be.
"""

import base64
import math
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from compression.modalities.scoring.metrics import Ids, Numbers
from compression.schema.report.draws import RowFigures
from compression.schema.report.gate import PairedDrop

FEWEST_DRAWS, IN_TAIL = 4000, 40  #: samples of the rows, and the fewest of them that lie beyond a bound
AT_ONCE = 1 << 22  #: numbers of samples that are drawn together
FEWEST_CLUSTERS = 10  #: of equal size, as which all clusters of a ratio count at least
LARGEST_DF = 10_000  #: degrees of freedom above which Student's quantiles are the normal ones
Weighted = Callable[[Numbers], tuple[Numbers, Numbers]]
"""A metric of both models, the original's first, by weights of kinds of rows: (draws, kinds) -> (draws,) of each."""


class UnpairedRows(ValueError):
    """Two models' figures are not of the same rows."""


def packed(figures: npt.ArrayLike) -> RowFigures:
    """Pack the rows' figures, (rows, columns), as float32."""
    numbers = np.asarray(figures, "<f4")
    return RowFigures(columns=numbers.shape[1], packed=base64.b64encode(zlib.compress(numbers.T.tobytes())).decode("ascii"))


def unpacked(figures: RowFigures) -> Numbers:
    """Return the rows' figures, (rows, columns)."""
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(figures.packed)), "<f4")
    return numbers.reshape(figures.columns, -1).T.astype(np.float64)


def check_pairs(before: Numbers, after: Numbers, cause: str = "the two models were not scored on the same rows") -> None:
    """Check that what both models' rows were compared with, (rows, columns) each, is the same. Raises UnpairedRows(cause)."""
    if before.shape != after.shape or not np.array_equal(before, after):
        raise UnpairedRows(cause)


def draws_for(confidence: float) -> int:
    """Return how many samples bounds of a confidence need."""
    return max(FEWEST_DRAWS, math.ceil(IN_TAIL / (1 - confidence)))


def drop_of_mean(differences: Numbers, confidence: float, seed: int) -> PairedDrop:
    """Bound the mean of the rows' differences, original − compressed, each within −1 and 1. differences: (rows,).

    Gaffke's bound (2005; Learned-Miller & Thomas 2019): of means with Dirichlet(1, …, 1) weights over the rows and one more
    difference of 1, for the lower bound of −1, the quantile at `confidence`. Of rows that are 0 or 1 it is Clopper and
    Pearson's (1934) bound; unlike Student's and Tango's (1998) it keeps its confidence if few rows differ.
    """
    values, counts = np.unique(differences, return_counts=True)
    ends = np.concatenate([values, [1.0, -1.0]])
    uppers, lowers = [], []
    for weights in _gammas(counts.astype(np.float64), draws_for(confidence), seed):
        whole, seen, unseen = weights.sum(axis=1), weights[:, :-1] @ ends[:-2], weights[:, -1]
        uppers.append((seen + unseen * ends[-2]) / whole)
        lowers.append((seen + unseen * ends[-1]) / whole)
    return PairedDrop(
        drop=float(differences.mean()),
        lower=float(np.quantile(np.concatenate(lowers), 1 - confidence)),
        upper=float(np.quantile(np.concatenate(uppers), confidence)),
        rows=len(differences),
        spread=_deviation(differences),
        method="bounded mean",
        seed=seed,
    )


def drop_of_ratio(differences: Numbers, sizes: Numbers, confidence: float) -> PairedDrop:
    """Bound Σ differences / Σ sizes over independent clusters: Student's interval, linearised (Cochran 1977, section 6.3).

    differences, sizes: (clusters,), sizes positive. Raises UnpairedRows for fewer than FEWEST_CLUSTERS, by Kish's effective
    number (1965): a ratio that is one cluster's own leaves it no residual, and the interval knows nothing of how clusters vary.
    """
    clusters, alike = len(differences), float(sizes.sum() ** 2 / (sizes**2).sum())
    if alike < FEWEST_CLUSTERS:
        cause = f"{clusters} texts, which by their lengths count as {alike:.1f} equal ones, are too few to tell how texts vary"
        raise UnpairedRows(f"{cause}: it takes {FEWEST_CLUSTERS}")
    drop = float(differences.sum() / sizes.sum())
    parts = (differences - drop * sizes) / sizes.mean()
    spread = _deviation(parts)
    away = student_quantile(confidence, clusters - 1) * spread / math.sqrt(clusters)
    ends = {"drop": drop, "lower": drop - away, "upper": drop + away}
    return PairedDrop(**ends, rows=clusters, spread=spread, unit="nats a token", method="student")


def drop_of_metric(metric: Weighted, counts: Numbers, unseen: Ids, confidence: float, seed: int) -> PairedDrop:
    """Bound the drop of a metric that is no mean, by paired samples of the rows: Rubin's bootstrap (1981).

    metric: takes the weights of the kinds of rows, (draws, kinds). counts: (kinds,), rows of each kind; one of no row is there
    only to be added. unseen: (kinds, 2); each sample draws a row, and adds a row of the kind that this names for the drawn
    one's, for the upper bound and for the lower.
    """
    rows, draw = int(counts.sum()), np.random.default_rng((seed, 1))  # apart from the weights
    present = np.flatnonzero(counts)
    before, after = metric(counts[None, :])
    found: list[list[Numbers]] = [[], []]
    for weights in _gammas(counts[present], draws_for(confidence), seed):
        models = draw.choice(len(counts), len(weights), p=counts / rows)
        for side in (0, 1):
            all_kinds = np.zeros((len(weights), len(counts)))
            all_kinds[:, present] = weights[:, :-1]
            all_kinds[np.arange(len(weights)), unseen[models, side]] += weights[:, -1]
            one, other = metric(all_kinds)
            found[side].append(one - other)
    uppers, lowers = (np.concatenate(side) for side in found)
    return PairedDrop(
        drop=float(before[0] - after[0]),
        lower=float(np.quantile(lowers, 1 - confidence)),
        upper=float(np.quantile(uppers, confidence)),
        rows=rows,
        spread=float(np.std((uppers + lowers) / 2, ddof=1) * math.sqrt(rows)),
        method="bootstrap",
        seed=seed,
    )


@cache
def student_quantile(confidence: float, freedom: int) -> float:
    """Return the quantile of Student's distribution, whose density along t = √f · tan θ is that of cos θ to f − 1."""
    if freedom > LARGEST_DF:
        return NormalDist().inv_cdf(confidence)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(freedom) * np.tan(np.interp(confidence, below / below[-1], angles)))


def _gammas(shapes: Numbers, draws: int, seed: int) -> Iterator[Numbers]:
    """Yield `draws` samples of gamma numbers, (some, shapes + 1) at a time, the last of shape 1: Dirichlet weights of the rows
    and of one more, not normalised.
    """
    draw, whole = np.random.default_rng(seed), np.append(shapes, 1.0)
    some = max(AT_ONCE // len(whole), 1)
    for start in range(0, draws, some):
        yield draw.standard_gamma(whole, (min(some, draws - start), len(whole)))


def _deviation(values: Numbers) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
