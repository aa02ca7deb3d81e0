"""Paired intervals: the scores of two artifacts on the same resamples of a split's rows. Torch-free."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from compression.schema.config import Config

Interval = tuple[float, float]
"""Lower and upper end: 2.5 and 97.5 percent of the draws are below them."""


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
    """Return the 95 % interval of retention by percentiles; None if rows make no pairs or a resample scores ≤ 0."""
    below, above = (after, before) if lower_is_better else (before, after)
    if below is not None and min(below.values) <= 0:
        return None
    return _interval(above, below, lambda one, other: one / other)


def difference_interval(one: Draws | None, other: Draws | None, *, lower_is_better: bool = False) -> Interval | None:
    """Return the 95 % interval of `one` − `other` in worth (`Score.worth`), or None as `retention_interval` does."""
    if lower_is_better:
        return _interval(other, one, lambda above, below: math.log(above / below))
    return _interval(one, other, lambda more, less: more - less)


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


def _interval(one: Draws | None, other: Draws | None, combine: Callable[[float, float], float]) -> Interval | None:
    if one is None or other is None or one.rows < 2:
        return None
    if (one.rows, one.seed, len(one.values)) != (other.rows, other.seed, len(other.values)):
        return None
    found = [combine(*pair) for pair in zip(one.values, other.values, strict=True)]
    cuts = statistics.quantiles(found, n=40, method="inclusive")
    return cuts[0], cuts[-1]
