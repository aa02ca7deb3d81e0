"""Builds the model card's comparison table: the original's figures beside the artifact's."""

from collections.abc import Iterator, Sequence

from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.report.before import Figures
from compression.schema.report.draws import Interval
from compression.schema.report.measurements import Latency, NotMeasured, Row, Score, shown
from compression.schema.report.ratios import kept
from compression.schema.report.report import Artifact

UNKNOWN = "–"

Cells = tuple[str, str, str, str]  #: A row of the table: figure, before, after, change


def comparison(rows: Sequence[Row], figures: Figures, artifact: Artifact, row_word: str = "row", zeros: int = 0) -> list[Cells]:
    """Return the rows beside an artifact's figures. Retention has its 95 % interval if the stage's row is of this artifact.

    row_word: what a row of the data is. zeros: parameters that the artifact has beyond its stage's.
    """
    baseline, own = rows[0], next(row for row in rows if row.stage == artifact.stage)
    ratios = own.ratios if own.artifact == artifact.name else None
    intervals = (ratios.retention_on_validation_interval, ratios.retention_interval) if ratios is not None else (None, None)
    # As with latency, a ratio across two runtimes would compare the runtimes.
    other = "" if _runs_in(baseline) == ARTIFACT_FORMATS[artifact.kind].runs_in else f"{UNKNOWN} (another runtime)"
    return [
        _counted("parameters", baseline.parameters.total, own.parameters.total + zeros),
        _counted("bytes of weights on disk", baseline.size.bytes, figures.size.bytes),
        *_scores("validation", baseline.validation, figures.validation, intervals[0]),
        *_scores("test", baseline.score, figures.score, intervals[1]),
        *_speed(baseline.latency, figures.latency, row_word),
        _counted("bytes of resident memory, only serving", baseline.peak_memory_bytes, figures.peak_memory_bytes, other),
    ]


def _runs_in(row: Row) -> str | None:
    """Return the name of the runtime of a row's own artifact."""
    named = (spec.runs_in for name, spec in ARTIFACT_FORMATS.items() if row.artifact.startswith(f"{row.stage}-{name}-"))
    return next(named, None)


def _counted(name: str, before: int | NotMeasured, after: int | NotMeasured, unlike: str = "") -> Cells:
    cells = ["not measured" if isinstance(one, NotMeasured) else f"{one:,}" for one in (before, after)]
    change = UNKNOWN
    if not isinstance(before, NotMeasured) and not isinstance(after, NotMeasured):
        change = unlike or _signed((after - before) / before, ".1%")
    return name, cells[0], cells[1], change


def _scores(
    split: str, before: Score | NotMeasured | None, after: Score | NotMeasured | None, interval: Interval | None
) -> Iterator[Cells]:
    if before is None or after is None:
        return
    if isinstance(before, NotMeasured) or isinstance(after, NotMeasured):
        cells = ["not measured" if isinstance(one, NotMeasured) else _headline(one) for one in (before, after)]
        yield f"score on {split}", cells[0], cells[1], UNKNOWN
        return
    share, _ = kept(before, after)
    between = f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})" if interval is not None else ""
    change = _change(before, after) + (f"; {share:.1%} kept{between}" if share is not None else "")
    yield f"{after.metric} on {split}", _headline(before), _headline(after), change
    for name in after.metrics:
        if name != after.metric and name in before.metrics:
            yield f"{name} on {split}", shown(name, before.metrics[name]), shown(name, after.metrics[name]), ""


def _headline(score: Score) -> str:
    return f"{shown(score.metric, score.value)} ± {shown(score.metric, score.standard_error)}"


def _change(before: Score, after: Score) -> str:
    difference = after.value - before.value
    return _signed(difference / before.value, ".1%") if before.lower_is_better else f"{_signed(100 * difference, '.2f')} points"


def _speed(before: Latency | NotMeasured, after: Latency | NotMeasured, row_word: str) -> Iterator[Cells]:
    """Yield one interleaved measurement, or of an artifact that was not timed the original's latency alone."""
    if isinstance(after, NotMeasured):
        alone = f"{before.median_ms:.2f} ms" if isinstance(before, Latency) else "not measured"
        yield "latency, median", alone, "not measured", UNKNOWN
        return
    if (generation := after.generation) is not None:
        for name, was, now in (
            ("tokens a second, reading a prompt", generation.baseline_prefill_per_second, generation.prefill_per_second),
            ("tokens a second, one after the other", generation.baseline_decode_per_second, generation.decode_per_second),
        ):
            yield name, f"{was:,.1f}", f"{now:,.1f}", f"{now / was:.2f}× as fast"
        return
    faster = f"{after.baseline_median_ms / after.median_ms:.2f}× as fast"
    yield f"latency, median of {after.of_what}", f"{after.baseline_median_ms:.2f} ms", f"{after.median_ms:.2f} ms", faster
    if not after.length:
        yield f"{row_word}s a second", f"{after.baseline_rows_per_second:,.1f}", f"{after.rows_per_second:,.1f}", faster


def _signed(value: float, form: str) -> str:
    return f"{value:+{form}}".replace("-", "−")
