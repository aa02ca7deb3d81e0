"""The row of several datasets: the mean of their rows, which the targets of a job apply to."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from compression.schema.report.draws import NO_DRAWS, SplitDraws
from compression.schema.report.measurements import Latency, NotMeasured, Parameters, Row, Score, Shape, Size, Uploaded
from compression.schema.report.ratios import ratios

METRIC = "mean of parts"
Figure = TypeVar("Figure")


def mean_row(
    parts: Mapping[str, Row],
    first: Row | None,
    sent: Uploaded | None = None,
    draws: tuple[SplitDraws, SplitDraws] = (NO_DRAWS, NO_DRAWS),
) -> Row:
    """Return the mean of one stage's rows, without notes and verdict. It lacks a figure that one of the datasets lacks.

    parts: name → row, in the job's order; first: the baseline's mean, None if this is the baseline; sent: the uploaded model
    that all share; draws: the baseline's mean over the datasets and this stage's.
    """
    rows = list(parts.values())
    parameters, size, latency = _parameters(rows), _size(rows), _latency(parts)
    score = _score({name: row.score for name, row in parts.items()})
    scored = {name: row.validation for name, row in parts.items() if row.validation is not None}
    validation = _score(scored) if len(scored) == len(parts) else None
    after = (parameters, size, score)
    before = (first.parameters, first.size, first.score) if first else after
    both = (first.validation if first else validation, validation)
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
        ratios=ratios(before, after, latency, sent, validation=both, draws=draws),
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
    names = ("layers", "hidden", "heads", "ffn", "vocabulary")
    widths = {name: _whole([getattr(shape, name) for shape in shapes]) for name in names}
    embedding = _whole(embeddings) if len(embeddings) == len(shapes) else None
    found = shapes[0].model_copy(update={**widths, "embedding": embedding, "ffns": None, "eight_bits": None})
    if any(shape.ffns for shape in shapes) and len({shape.layers for shape in shapes}) == 1:
        found = found.with_ffns([_whole(units) for units in zip(*(shape.each_ffn for shape in shapes), strict=True)])
    return found


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
    found = _measured({name: row.latency for name, row in parts.items()})
    if isinstance(found, NotMeasured):
        return found
    times = ("median_ms", "p95_ms", "spread_ms", "baseline_median_ms", "baseline_p95_ms")
    means = {time: mean([getattr(one, time) for one in found.values()]) for time in times}
    first = next(iter(found.values()))
    disturbed = [one.interrupted for one in found.values() if one.interrupted is not None]
    alone = all(one.exclusive for one in found.values())
    changes = {"runs": min(one.runs for one in found.values()), "speed_up_interval": None, "exclusive": alone}
    return first.model_copy(update={**means, **changes, "interrupted": max(disturbed, default=None)})


def _score(parts: Mapping[str, Score | NotMeasured]) -> Score | NotMeasured:
    found = _measured(parts)
    if isinstance(found, NotMeasured):
        return found
    scores = list(found.values())
    rows, splits = [score.rows for score in scores], [score.split_rows or score.rows for score in scores]
    return Score(
        metric=METRIC,
        value=mean([score.value for score in scores]),
        standard_error=math.hypot(*(score.standard_error for score in scores)) / len(scores),
        error_from="parts",
        metrics={name: score.value for name, score in found.items()},
        standard_errors={name: score.standard_error for name, score in found.items()},
        value_at_batch_32=mean([score.value_at_batch_32 for score in scores]),
        rows=sum(rows),
        split_rows=sum(splits) if splits != rows else None,
        rows_changed_by_batching=sum(score.rows_changed_by_batching for score in scores),
        chance=mean([score.chance for score in scores]),
    )


def _count(parts: Mapping[str, Row], figure: str) -> int | NotMeasured:
    found: dict[str, int] | NotMeasured = _measured({name: getattr(row, figure) for name, row in parts.items()})
    return found if isinstance(found, NotMeasured) else _whole([*found.values()])


def _measured(parts: Mapping[str, Figure | NotMeasured]) -> dict[str, Figure] | NotMeasured:
    """Return the figures by dataset, or why the first that was not measured was not."""
    found = {}
    for name, figure in parts.items():
        if isinstance(figure, NotMeasured):
            return NotMeasured(not_measured=f"{name}: {figure.not_measured}")
        found[name] = figure
    return found
