"""The row of several datasets: the mean of their rows, which the targets of a job apply to."""

import math
from collections.abc import Mapping, Sequence

from compression.schema.report.draws import NO_DRAWS, SplitDraws
from compression.schema.report.measurements import Latency, NotMeasured, Parameters, Ratios, Row, Score, Shape, Size, Uploaded
from compression.schema.report.ratios import ratios

METRIC = "mean of parts"


def mean_row(
    parts: Mapping[str, Row],
    first: Row | None,
    sent: Uploaded | None = None,
    draws: tuple[SplitDraws, SplitDraws] = (NO_DRAWS, NO_DRAWS),
) -> Row:
    """Return the mean of one stage's rows, without notes and verdict.

    parts: name → row, in the job's order; first: the baseline's mean, None if this is the baseline; sent: the uploaded model
    that all share; draws: the baseline's mean over the datasets and this stage's. If one dataset lacks a figure, the mean lacks
    it too, because a mean of the others would be compared with a mean of all.
    """
    rows = list(parts.values())
    parameters, size, latency = _parameters(rows), _size(rows), _latency(parts)
    score = _score({name: row.score for name, row in parts.items()})
    scored = {name: row.validation for name, row in parts.items() if row.validation is not None}
    validation = _score(scored) if len(scored) == len(parts) else None
    after = (parameters, size, score)
    before = (first.parameters, first.size, first.score) if first else after
    both = (first.validation if first else validation, validation)
    found: Ratios = ratios(before, after, latency, sent, validation=both, draws=draws)
    return Row(
        stage=rows[0].stage,
        artifact=rows[0].artifact,
        shape=_shape(rows),
        parameters=parameters,
        size=size,
        latency=latency,
        score=score,
        validation=validation,
        flops=_count(parts, "flops"),
        peak_memory_bytes=_count(parts, "peak_memory_bytes"),
        ratios=found,
        seconds=sum(row.seconds for row in rows),
        parts=dict(parts),
    )


def metrics_of_parts(row: Row) -> str:
    """Return the metrics that a row's score averages, by name; empty if the row is of one dataset."""
    found = {name: part.score.metric for name, part in sorted(row.parts.items()) if isinstance(part.score, Score)}
    return ", ".join(f"{name}: {metric}" for name, metric in found.items())


def judged(rows: Sequence[Row], part: str = "") -> str:
    """Return the metric of a dataset's rows, as charts name it; `score` if none was measured."""
    own = [row.parts.get(part) if part else row for row in rows]
    return next((row.score.named for row in own if row is not None and isinstance(row.score, Score)), "score")


def judged_each(rows: Sequence[Row]) -> str:
    """Return the metric of a job's datasets; `score` if they differ or if it is unknown."""
    parts = {part for row in rows for part in row.parts} or {""}
    names = {judged(rows, part) for part in parts}
    return names.pop() if len(names) == 1 else "score"


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def _whole(values: Sequence[int]) -> int:
    return round(mean(values))


def _shape(rows: Sequence[Row]) -> Shape:
    # The parts are pruned to one shape, except what depends on their data: each may have its own vocabulary.
    shapes = [row.shape for row in rows]
    embeddings = [shape.embedding for shape in shapes if shape.embedding is not None]
    widths = {name: _whole([getattr(shape, name) for shape in shapes]) for name in ("layers", "hidden", "heads", "ffn")}
    return shapes[0].model_copy(
        update={
            **widths,
            "vocabulary": _whole([shape.vocabulary for shape in shapes]),
            "embedding": _whole(embeddings) if len(embeddings) == len(shapes) else None,
        }
    )


def _parameters(rows: Sequence[Row]) -> Parameters:
    embedding, other = (_whole([getattr(row.parameters, name) for row in rows]) for name in ("embedding", "other"))
    return Parameters(total=embedding + other, embedding=embedding, other=other)


def _size(rows: Sequence[Row]) -> Size:
    return Size(
        bytes=_whole([row.size.bytes for row in rows]),
        dtype=" and ".join(dict.fromkeys(row.size.dtype for row in rows)),
        bytes_at_16_bit=_whole([row.size.bytes_at_16_bit for row in rows]),
    )


def _latency(parts: Mapping[str, Row]) -> Latency | NotMeasured:
    found = []
    for name, row in parts.items():
        if isinstance(row.latency, NotMeasured):
            return _lacking(name, row.latency)
        found.append(row.latency)
    times = ("median_ms", "p95_ms", "spread_ms", "baseline_median_ms", "baseline_p95_ms")
    same = found[0].model_copy(update={name: mean([getattr(one, name) for one in found]) for name in times})
    return same.model_copy(update={"runs": min(one.runs for one in found)})


def _score(parts: Mapping[str, Score | NotMeasured]) -> Score | NotMeasured:
    found = {}
    for name, score in parts.items():
        if isinstance(score, NotMeasured):
            return _lacking(name, score)
        found[name] = score
    scores = list(found.values())
    return Score(
        metric=METRIC,
        value=mean([score.value for score in scores]),
        standard_error=math.hypot(*(score.standard_error for score in scores)) / len(scores),
        error_from="parts",
        metrics={name: score.value for name, score in found.items()},
        standard_errors={name: score.standard_error for name, score in found.items()},
        value_at_batch_32=mean([score.value_at_batch_32 for score in scores]),
        rows=sum(score.rows for score in scores),
        rows_changed_by_batching=sum(score.rows_changed_by_batching for score in scores),
        chance=mean([score.chance for score in scores]),
    )


def _count(parts: Mapping[str, Row], figure: str) -> int | NotMeasured:
    for name, row in parts.items():
        if isinstance(lacking := getattr(row, figure), NotMeasured):
            return _lacking(name, lacking)
    return _whole([getattr(row, figure) for row in parts.values()])


def _lacking(name: str, reason: NotMeasured) -> NotMeasured:
    return NotMeasured(not_measured=f"{name}: {reason.not_measured}")
