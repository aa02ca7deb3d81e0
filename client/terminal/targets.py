"""Formats what other targets of a finished job come to, for terminals. Pure functions."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from client.terminal.output import table
from client.terminal.render import count, figure_text, size
from client.terminal.text import one_line
from compression.schema.report.written import change
from compression.schema.target_answer import PredictedScore, TargetAnswer, TargetFront, TargetPoint, WholeModel


def score_text(score: PredictedScore | None) -> str:
    """Return a predicted score with its error: ≈ 84.1 % ± 0.9."""
    if score is None:
        return "–"
    error = figure_text(score.metric, score.standard_error, 2)
    return f"≈ {figure_text(score.metric, score.value, 2)} ± {error}{' (beyond what was tried)' if score.extrapolated else ''}"


def answer_lines(found: TargetAnswer) -> list[RenderableType]:
    """Return the figures of the whole model and of the cut, and what must be known of them."""
    rows = [(name, *values) for name, *values in _figures(found.whole, found.point)]
    shown: list[RenderableType] = [] if found.reached else [f"Out of reach: {one_line(found.missed or '')}. The nearest point:"]
    shown += [found.point.shape.short, table(("", "whole", "cut", "change"), rows, empty="")]
    return [*shown, *_remarks(found, [found.point])]


def front_lines(found: TargetFront) -> list[RenderableType]:
    """Return a line for each point of a front, and what must be known of them."""
    rows = [_front_line(found.whole, point) for point in found.points]
    columns = ("parameters", "change", "size", "ms", "error", "score", "shape")
    return [table(columns, rows, empty="The solver found no cut in its time."), *_remarks(found, found.points)]


def _front_line(whole: WholeModel, point: TargetPoint) -> tuple[str, ...]:
    before, after = whole.parameters.total, point.parameters.total
    sizes = (count(after), _share(before, after), size(point.bytes))
    return (*sizes, _milliseconds(point.milliseconds), f"{point.error:.4g}", score_text(point.score), point.shape.short)


def _figures(whole: WholeModel, point: TargetPoint) -> Iterator[tuple[str, ...]]:
    before, after = whole.parameters.total, point.parameters.total
    yield "parameters", count(before), count(after), _share(before, after)
    yield "size", size(whole.bytes), size(point.bytes), _share(whole.bytes, point.bytes)
    if whole.flops is not None and point.flops is not None:
        yield "multiply-adds", count(whole.flops), count(point.flops), _share(whole.flops, point.flops)
    if whole.milliseconds is not None and point.milliseconds is not None:
        faster = f"{whole.milliseconds / point.milliseconds:.2f}×"
        yield "milliseconds", _milliseconds(whole.milliseconds), _milliseconds(point.milliseconds), faster
    yield "layers' error", "0", f"{point.error:.4g}", ""
    yield "score", "", score_text(point.score), ""


def _share(before: float, after: float) -> str:
    return change(1 - after / before) if before else ""


def _milliseconds(number: float | None) -> str:
    return "–" if number is None else f"{number:.2f}"


def _remarks(found: TargetAnswer | TargetFront, points: Sequence[TargetPoint]) -> Iterator[str]:
    """Yield why figures are absent, and what the others rest on."""
    if found.no_milliseconds is not None:
        yield f"No milliseconds: {one_line(found.no_milliseconds)}"
    if found.no_score is not None:
        yield f"No score: {one_line(found.no_score)}"
    score = next((point.score for point in points if point.score is not None), None)
    if score is not None:
        yield f"The score rests on {one_line(score.basis)}"
    if not all(point.proven for point in points):
        yield "It is not proven that no other cut errs less."
    yield "Predicted, not measured: nothing was trained. Sizes and times are of the job's own scheme."
