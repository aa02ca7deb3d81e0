"""The card's table of before and after: the original's figures beside the artifact's own."""

from collections.abc import Iterator, Sequence

from compression.report import Figures, Generation, Latency, NotMeasured, Row, Score, shown

UNKNOWN = "–"


def comparison(rows: Sequence[Row], figures: Figures, stage: str) -> list[str]:
    """Return the section's lines. rows: the job's, from the baseline on; figures: of the artifact; stage: its own."""
    baseline, own = rows[0], next(row for row in rows if row.stage == stage)
    return [
        "## Before and after",
        "",
        "Before is the original that the job compares with. `before.json` has all its figures, and each stage's up to here.",
        "",
        f"| figure | before (`{baseline.artifact}`) | after (this artifact) | change |",
        "| --- | --- | --- | --- |",
        _counted("parameters", baseline.parameters.total, own.parameters.total),
        _counted("bytes of weights on disk", baseline.size.bytes, figures.size.bytes),
        *_scores(baseline.score, figures.score),
        *_speed(baseline.latency, figures.latency),
        _counted("bytes of resident memory, only serving", baseline.peak_memory_bytes, figures.peak_memory_bytes),
        "",
    ]


def _counted(name: str, before: int | NotMeasured, after: int | NotMeasured) -> str:
    cells = ["not measured" if isinstance(one, NotMeasured) else f"{one:,}" for one in (before, after)]
    is_known = not isinstance(before, NotMeasured) and not isinstance(after, NotMeasured)
    change = f"{_signed((after - before) / before, '.1%')}" if is_known else UNKNOWN  # type: ignore[operator]
    return f"| {name} | {cells[0]} | {cells[1]} | {change} |"


def _scores(before: Score | NotMeasured, after: Score | NotMeasured) -> Iterator[str]:
    if isinstance(before, NotMeasured) or isinstance(after, NotMeasured):
        cells = ["not measured" if isinstance(one, NotMeasured) else _headline(one) for one in (before, after)]
        yield f"| score | {cells[0]} | {cells[1]} | {UNKNOWN} |"
        return
    change = _moved(before, before.value, after.value)
    yield f"| {after.metric} on test | {_headline(before)} | {_headline(after)} | {change} |"
    for name in after.metrics:
        if name != after.metric and name in before.metrics:
            yield f"| {name} on test | {shown(name, before.metrics[name])} | {shown(name, after.metrics[name])} | |"


def _headline(score: Score) -> str:
    return f"{shown(score.metric, score.value)} ± {shown(score.metric, score.standard_error)}"


def _moved(score: Score, before: float, after: float) -> str:
    if score.lower_is_better:
        return _signed((after - before) / before, ".1%")
    return f"{_signed(100 * (after - before), '.2f')} points"


def _speed(before: Latency | NotMeasured, after: Latency | NotMeasured) -> Iterator[str]:
    """Both sides of one measurement, interleaved; where the artifact was not timed, what the original took by itself."""
    if isinstance(after, NotMeasured):
        alone = f"{before.median_ms:.2f} ms" if isinstance(before, Latency) else "not measured"
        yield f"| latency, median | {alone} | not measured | {UNKNOWN} |"
        return
    if after.generation is not None:
        yield from _generating(after.generation)
        return
    faster = f"{after.baseline_median_ms / after.median_ms:.2f}× as fast"
    yield f"| latency, median of {after.of_what} | {after.baseline_median_ms:.2f} ms | {after.median_ms:.2f} ms | {faster} |"


def _generating(found: Generation) -> Iterator[str]:
    for name, before, after in (
        ("tokens a second, reading a prompt", found.baseline_prefill_per_second, found.prefill_per_second),
        ("tokens a second, one after the other", found.baseline_decode_per_second, found.decode_per_second),
    ):
        yield f"| {name} | {before:,.1f} | {after:,.1f} | {after / before:.2f}× as fast |"


def _signed(value: float, form: str) -> str:
    return f"{value:+{form}}".replace("-", "−")
