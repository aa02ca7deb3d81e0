"""How one artifact's figures are compared with another's: the definitions. Torch-free."""

from compression.schema.report.draws import NO_DRAWS, Draws, Interval, SplitDraws, retention_interval
from compression.schema.report.measurements import Latency, NotMeasured, Parameters, Ratios, Score, Size, Uploaded

Scored = Score | NotMeasured | None


def reduction(before: float, after: float) -> float:
    """Return (before − after) / before."""
    return (before - after) / before


def speed_up(before_ms: float, after_ms: float) -> float:
    """Return latency before / latency after."""
    return before_ms / after_ms


def retention(before: float, after: float, *, lower_is_better: bool = False) -> float | None:
    """Return score after / before (inverted if lower is better); None, having no meaning, if before ≤ 0."""
    if before <= 0 or (lower_is_better and after <= 0):
        return None
    return before / after if lower_is_better else after / before


def ratios(
    before: tuple[Parameters, Size, Score | NotMeasured],
    after: tuple[Parameters, Size, Score | NotMeasured],
    latency: Latency | NotMeasured,
    uploaded: Uploaded | None = None,
    *,
    validation: tuple[Scored, Scored] = (None, None),
    draws: tuple[SplitDraws, SplitDraws] = (NO_DRAWS, NO_DRAWS),
) -> Ratios:
    """Return the ratios of a stage's figures to the baseline's, and of its size to the uploaded file's, 16 bits and float32.

    `latency` has both sides, measured in one process. validation, draws: the baseline's first, as in `before`.
    """
    faster = less_latency = above_chance = None
    if isinstance(latency, Latency):
        faster = speed_up(latency.baseline_median_ms, latency.median_ms)
        less_latency = reduction(latency.baseline_median_ms, latency.median_ms)
    first, last = before[2], after[2]
    if isinstance(first, Score) and isinstance(last, Score):
        above_chance = retention(first.above_chance, last.above_chance)
    on_test = kept(first, last, draws[0].test, draws[1].test)
    on_validation = kept(*validation, draws[0].validation, draws[1].validation)
    return Ratios(
        parameter_reduction=reduction(before[0].total, after[0].total),
        size_reduction=reduction(before[1].bytes, after[1].bytes),
        size_reduction_from_file=reduction(uploaded.bytes, after[1].bytes) if uploaded else None,
        size_reduction_from_16_bit=reduction(2 * before[0].total, after[1].bytes),
        size_reduction_from_float32=reduction(4 * before[0].total, after[1].bytes),
        speed_up=faster,
        speed_up_interval=latency.speed_up_interval if isinstance(latency, Latency) else None,
        latency_reduction=less_latency,
        retention=on_test[0],
        retention_interval=on_test[1],
        retention_above_chance=above_chance,
        retention_on_validation=on_validation[0],
        retention_on_validation_interval=on_validation[1],
        judged_on="test" if None in validation else "validation",
    )


def kept(
    before: Scored, after: Scored, first: Draws | None = None, last: Draws | None = None
) -> tuple[float | None, Interval | None]:
    """Return the retention on one split, with its interval; None for each that does not exist."""
    if not isinstance(before, Score) or not isinstance(after, Score):
        return None, None
    inverse = before.lower_is_better
    share = retention(before.value, after.value, lower_is_better=inverse)
    if share is None:
        return None, None
    if before is after and first is not None:
        return share, (1.0, 1.0)  # what it keeps of itself is certain, however few rows there are
    return share, retention_interval(first, last, lower_is_better=inverse)
