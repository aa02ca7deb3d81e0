"""Renders the page from a report."""

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.pages import latency_bars
from app.pages.report_page import formatting, svg
from compression.schema.report.averages import judged, judged_each, metrics_of_parts
from compression.schema.report.layer_ranges import LayerRange
from compression.schema.report.lm_eval_table import compare_lm_eval
from compression.schema.report.measurements import Latency, Row, Score
from compression.schema.report.report import Report
from compression.schema.report.sample_table import sample_tables
from compression.schema.report.sensitivity import Sensitivity
from compression.schema.report.targets import in_order, spoken as target_name
from compression.schema.report.written import change
from compression.schema.tasks import row_of

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "report.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class About:
    """Facts of the job's row that the report lacks."""

    id: str
    name: str
    labels: dict[str, str]
    submitted: dt.datetime
    finished: dt.datetime | None = None


def policy(*, header: bool = True) -> str:
    """Return the page's Content-Security-Policy: its own style sheet, by its hash, pictures that it holds, and nothing else.

    header: with the directives that only a header can carry; the file itself carries the others.
    """
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"{rules}; frame-ancestors 'none'; sandbox" if header else rules


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shared = ("count", "size", "milliseconds", "percent", "duration", "score", "metric", "spoken")
    made.filters.update({name: getattr(formatting, name) for name in shared} | {"change": change, "row_word": row_of})
    made.globals.update(
        target=formatting.target,
        in_order=in_order,
        target_name=target_name,
        reached=formatting.reached,
        unmeasured=formatting.unmeasured,
        kept=formatting.kept,
    )
    made.globals.update(stages=formatting.STAGES, style=Markup(STYLE), policy=policy(header=False))  # noqa: S704
    return made


ENVIRONMENT = _environment()


def render(report: Report, about: About, progress: Sequence[Mapping[str, Any]] = ()) -> str:
    """Render the page. The same report gives the same bytes. progress: the job's progress events, in order."""
    return ENVIRONMENT.get_template("report.html").render(
        about=about,
        report=report,
        shipped=shipped(report),
        pictures=pictures(report.rows, shipped(report)),
        front_picture=front_picture(report.front_rows),
        conditions=conditions(report.rows),
        beside=compare_lm_eval(report.rows),
        samples=sample_tables(report),
        training=training(progress, judged_each(report.rows)),
        judged=judged(report.rows),
        sensitivity={
            part: _sensitivity(part, found, judged(report.rows, part)) for part, found in _parts_sensitivity(report).items()
        },
        ranges={name: (_ranges(name, found), found) for name, found in _all_ranges(report).items()},
        recipe=json.dumps(report.recipe.model_dump(mode="json", exclude_defaults=True), indent=2, ensure_ascii=False),
    )


def shipped(report: Report) -> Row:
    """Return the row of the headline artifact."""
    return next((row for row in report.rows if row.artifact == report.headline), report.rows[-1])


def pictures(rows: Sequence[Row], chosen: Row) -> list[svg.Picture]:
    """Draw parameters, bytes, latency and score of each stage; figures that were not measured are left out."""
    pictures = [
        svg.bars(
            "Parameters", [_bar(row, chosen, row.parameters.total, formatting.count(row.parameters.total)) for row in rows]
        ),
        svg.bars("Weights on disk", [_bar(row, chosen, row.size.bytes, formatting.size(row.size.bytes)) for row in rows]),
    ]
    timed = [(row, row.latency) for row in rows if isinstance(row.latency, Latency)]
    if timed:
        entries = [_bar(row, chosen, *_timed(latency, timed[0][1])) for row, latency in timed]
        name = "Latency per token" if timed[0][1].generation is not None else "Latency"
        pictures.append(svg.bars(f"{name}, median; whiskers: half the interquartile range", entries))
    scored = [(row, row.judged_score) for row in rows if isinstance(row.judged_score, Score)]
    if scored:
        entries = [
            _bar(row, chosen, score.value, formatting.metric(score.metric, score.value), score.standard_error)
            for row, score in scored
        ]
        split = " on validation" if all(row.validation is not None for row in rows) else ""
        pictures.append(svg.bars(f"Score{split}: {scored[0][1].named}; whiskers: standard error", entries))
    return pictures


def front_picture(rows: Sequence[Row]) -> svg.Picture | None:
    """Draw the size of each of several models of a job against what it keeps; None if fewer than two are known."""
    found = [(row.parameters.total / 1e6, 100 * kept) for row in rows if (kept := row.ratios.judged_retention) is not None]
    name = f"kept on {rows[0].ratios.judged_on}, %" if rows else ""
    return svg.curves("Size against score", {"sizes": found}, "million parameters", name) if found[1:] else None


def training(progress: Sequence[Mapping[str, Any]], metric: str = "score") -> list[svg.Picture]:
    """Draw loss and validation score of each stage by step, for phases with at least two points. Steps that a later attempt
    repeated replace the earlier ones.

    metric: name of the validation metric.
    """
    pictures = []
    for figure, title, name in (("loss", "Loss", "loss"), ("score", "Score on validation", metric)):
        lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for event in progress:
            if event.get(figure) is not None and event.get("stage") in formatting.STAGES:
                phase = " ".join(str(event[key]) for key in ("part", "phase") if event.get(key))
                stage = lines.setdefault(formatting.STAGES[event["stage"]], {})
                points = stage.setdefault(phase, [])
                while points and points[-1][0] >= event["step"]:
                    points.pop()
                points.append((float(event["step"]), float(event[figure])))
        for stage_name, phases in lines.items():
            whole = {phase: points for phase, points in phases.items() if len(points) > 1}
            if whole:
                pictures.append(svg.curves(f"{title}: {stage_name}", whole, "step", name))
    return pictures


def _timed(found: Latency, first: Latency) -> tuple[float, str, float]:
    """Return the length of a stage's bar, its text and its whisker."""
    text, by = formatting.milliseconds(found.median_ms), latency_bars.scale(found, first)
    if found is not first:
        text = f"{text.removesuffix(' ms')} of {formatting.milliseconds(found.baseline_median_ms)}"
    return by * found.median_ms, text, by * found.spread_ms / 2


def _bar(row: Row, chosen: Row, value: float, text: str, error: float = 0.0) -> svg.Bar:
    return svg.Bar(formatting.STAGES[row.stage], value, text, error, chosen=row is chosen)


def conditions(rows: Sequence[Row]) -> str:
    """Return the conditions under which the figures were measured."""
    sentences = []
    timed = next((row.latency for row in reversed(rows) if isinstance(row.latency, Latency)), None)
    if timed is not None:
        threads = "thread" if timed.threads == 1 else "threads"
        sentences.append(
            f"Latency: {timed.runs} runs, interleaved with the baseline in one process; {timed.of_what}, "
            f"{timed.threads} {threads}, {timed.runtime}."
        )
    own = next((row for row in reversed(rows) if isinstance(row.score, Score)), None)
    if own is not None and isinstance(scored := own.score, Score):
        of = metrics_of_parts(own)
        sentences.append(
            f"Score: {scored.metric}{f' ({of})' if of else ''} on {scored.rows:,} test rows ± standard error; chance level: "
            f"{formatting.metric(scored.metric, scored.chance)}."
        )
    checked = next((row.validation for row in reversed(rows) if isinstance(row.validation, Score)), None)
    if checked is not None:
        sentences.append(
            f"Choices and verdicts use validation ({checked.rows:,} rows); test is only reported. Retention has a 95 % "
            "interval (paired bootstrap)."
        )
    return " ".join(sentences)


def _parts_sensitivity(report: Report) -> dict[str, dict[str, tuple[Sensitivity, ...]]]:
    own = {"": report.sensitivity, **{part.name: part.sensitivity for part in report.parts}}
    return {name: found for name, found in own.items() if any(found.values())}


def _sensitivity(part: str, found: dict[str, tuple[Sensitivity, ...]], metric: str) -> svg.Picture:
    series = {axis: [(point.taken, point.score) for point in points] for axis, points in found.items() if points}
    title = "Score on validation after pruning one axis alone" + (f", {part}" if part else "")
    return svg.curves(title, series, "share removed", metric)


def _all_ranges(report: Report) -> dict[str, tuple[LayerRange, ...]]:
    """Return the activation ranges of each row and of each part."""
    found = {}
    for row in report.rows:
        own = {formatting.STAGES[row.stage]: row.ranges}
        own |= {f"{formatting.STAGES[row.stage]}, {name}": part.ranges for name, part in sorted(row.parts.items())}
        found.update({name: ranges for name, ranges in own.items() if ranges})
    return found


def _ranges(name: str, found: tuple[LayerRange, ...]) -> svg.Picture:
    """Draw the share of integer levels that each layer uses or, if activations stay in floating point, largest / percentile."""
    if all(layer.levels_used is not None for layer in found):
        entries = [
            svg.Bar(layer.layer, layer.levels_used or 0.0, formatting.percent(layer.levels_used or 0.0), chosen=layer.broken)
            for layer in found
        ]
        return svg.columns(f"{name}: share of integer levels used, by layer", entries, most=1.0)
    most = max(layer.ratio for layer in found)
    entries = [svg.Bar(layer.layer, layer.ratio, f"{layer.ratio:.1f}", chosen=layer.broken) for layer in found]
    return svg.columns(f"{name}: largest activation / 99th percentile, by layer", entries, most=most)
