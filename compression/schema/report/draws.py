"""Paired intervals: the scores of two artifacts on the same resamples of a split's rows. Torch-free."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from compression.schema.config import Config

Interval = tuple[float, float]
"""Lower and upper end: 2.5 and 97.5 percent of the draws are below them."""
BEYOND = 0.025
SAME = 1e-12  #: draws that differ by less agree


class RowFigures(Config):
    """What the metric is computed from, row by row: little-endian float32, column by column, deflated, in base64."""

    columns: int
    packed: str


class Draws(Config):
    """The headline metric on resamples of a split's rows, drawn with replacement (bootstrap, Efron 1979).

    The same seed and number of rows give the same resamples, so the draws of two artifacts make pairs.
    """

    rows: Annotated[int, Field(description="Rows of the split; of a language model, texts.")]
    seed: int
    values: Annotated[tuple[float, ...], Field(description="The metric on each resample, in their order.")]
    by_row: Annotated[RowFigures | None, Field(exclude_if=lambda value: value is None)] = None
    """Only in jobs with a quality gate, whose paired test reads them."""


class SplitDraws(Config):
    """The draws of one artifact; null if its score was not measured. In checkpoints, not in reports."""

    validation: Draws | None = None
    test: Draws | None = None


NO_DRAWS = SplitDraws()


def retention_interval(before: Draws | None, after: Draws | None, *, lower_is_better: bool = False) -> Interval | None:
    """Return the 95 % interval of retention by percentiles; None if rows make no pairs or a resample scores ≤ 0.

    If all resamples agree, one more row is counted (`_with_unseen`), or of an unbounded metric, where lower is better, there is
    no interval.
    """
    below, above = (after, before) if lower_is_better else (before, after)
    if below is not None and min(below.values) <= 0:
        return None
    return _interval(above, below, lambda one, other: one / other, bounded=not lower_is_better)


def difference_interval(one: Draws | None, other: Draws | None, *, lower_is_better: bool = False) -> Interval | None:
    """Return the 95 % interval of `one` − `other` in worth (`Score.worth`), or None as `retention_interval` does."""
    if lower_is_better:
        return _interval(other, one, lambda above, below: math.log(above / below), bounded=False)
    return _interval(one, other, lambda more, less: more - less, bounded=True)


def mean_draws(parts: Sequence[Draws | None]) -> Draws | None:
    """Return the draws of the mean over datasets, which are drawn independently; None if one has none."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    means = tuple(statistics.fmean(each) for each in zip(*(part.values for part in known), strict=True))
    return Draws(rows=sum(part.rows for part in known), seed=known[0].seed, values=means)


def mean_split_draws(parts: Sequence[SplitDraws]) -> SplitDraws:
    """Return `mean_draws` of each split."""
    return SplitDraws(validation=mean_draws([one.validation for one in parts]), test=mean_draws([one.test for one in parts]))


Combine = Callable[[float, float], float]


def _interval(one: Draws | None, other: Draws | None, combine: Combine, *, bounded: bool) -> Interval | None:
    if one is None or other is None or one.rows < 2:
        return None
    if (one.rows, one.seed, len(one.values)) != (other.rows, other.seed, len(other.values)):
        return None
    found = [combine(*pair) for pair in zip(one.values, other.values, strict=True)]
    if max(found) - min(found) < SAME:
        return _with_unseen(one, other, combine) if bounded else None
    cuts = statistics.quantiles(found, n=40, method="inclusive")
    return cuts[0], cuts[-1]


def _with_unseen(one: Draws, other: Draws, combine: Combine) -> Interval:
    """Bound what all resamples agree on: what no row shows is not certain to be so.

    One more row, not seen, is right in one model alone. Its weight is the 97.5 % bound of a share of which none of the rows is
    (Clopper and Pearson 1934): 0.9 % of 400 rows, 37 % of 8.
    """
    weight = 1 - BEYOND ** (1 / one.rows)
    more, less = ((1 - weight) * statistics.fmean(draws.values) for draws in (one, other))
    return combine(more, less + weight), combine(more + weight, less)
