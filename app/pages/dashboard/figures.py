"""A job's report as its page shows it: the verdict, four figures of the result, bars for each stage, and pruned dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.pages import latency_bars
from app.pages.dashboard import formatting
from compression.schema.report.measurements import Latency, NotMeasured, Row, Score
from compression.schema.report.report import Report, Verdict
from compression.schema.report.targets import TARGETS, bound_text, in_order, spoken, target_text
from compression.schema.report.written import change


@dataclass(frozen=True)
class Outcome:
    """The verdicts in one line. `status` is met, missed or unproven."""

    status: str
    text: str


@dataclass(frozen=True)
class Figure:
    """One figure of the result, and whether it meets its target."""

    title: str
    value: str
    what: str  #: what the value is a share or a factor of
    change: str  #: baseline → result
    notes: tuple[str, ...]
    target: str
    verdict: Verdict


@dataclass(frozen=True)
class Bar:
    """One stage of a picture: its share of the widest bar, and its figure."""

    stage: str
    share: float
    text: str


@dataclass(frozen=True)
class Picture:
    """One figure of all stages, a bar for each."""

    title: str
    bars: tuple[Bar, ...]
    summary: str


@dataclass(frozen=True)
class Cut:
    """The units that pruning removed on one axis; shares are None if the report has none.

    groups: widths by layer, where they differ. each: influence and time by layer, and whether it went.
    """

    axis: str
    before: int
    after: int
    asked: float | None
    taken: float | None
    groups: Mapping[str, Any]
    each: Mapping[str, Any]
    mean: bool  #: whether the units after are the mean of layers that have their own


def outcome(report: Report) -> Outcome:
    """Count the targets that are met."""
    found = [verdict.status for verdict in report.verdicts.values()]
    met, unproven = found.count("met"), found.count("unproven")
    status = "missed" if "missed" in found else "unproven" if unproven else "met"
    text = "All targets met" if status == "met" else f"{met} of {len(found)} targets met"
    return Outcome(status, text + (f", {unproven} unproven" if unproven else ""))


def figures(report: Report, base: Row, best: Row) -> list[Figure]:
    """Return a figure for each target of the result; base and best are the rows of the baseline and of the headline."""
    found = report.ratios
    interval = found.judged_interval
    parameters = f"{formatting.count(base.parameters.total)} → {formatting.count(best.parameters.total)}"
    size = f"{formatting.size(base.size.bytes)} → {formatting.size(best.size.bytes)}"
    score = _scores(base.judged_score, best.judged_score)
    retention = (f"95 % interval {formatting.interval(interval)}",) if interval else ()
    ends = found.speed_up_interval
    speed = (f"95 % interval {formatting.times(ends[0])} to {formatting.times(ends[1])}",) if ends else ()
    shown: dict[str, tuple[str, str, str, str, tuple[str, ...]]] = {
        "parameter_reduction": ("Parameters", *_less(found.parameter_reduction, "fewer", "more"), parameters, ()),
        "size_reduction": ("Size", *_less(found.size_reduction, "smaller", "larger"), size, sizes(report)),
        "speed_up": ("Speed", formatting.times(found.speed_up), "as fast", _latencies(best.latency), speed),
        "retention": (f"Score on {found.judged_on}", formatting.percent(found.judged_retention), "kept", score, retention),
    }
    changes = {"parameters": parameters, "size": size, "latency": _latencies(best.latency), "score": score}
    return [
        Figure(*_apart(name, verdict, shown.get(name) or _absolute(name, verdict, changes)), bound(name, verdict), verdict)
        for name, verdict in in_order(report.verdicts)
    ]


def _apart(
    name: str, verdict: Verdict, told: tuple[str, str, str, str, tuple[str, ...]]
) -> tuple[str, str, str, str, tuple[str, ...]]:
    """Return what is shown with a figure that does not read as the target that it misses."""
    title, value, word, change, more = told
    reads_alike = not verdict.met and value == target_text(name, verdict.target, verdict.metric)
    return title, verdict.figure_text(name) if reads_alike else value, word, change, more


def _absolute(name: str, verdict: Verdict, changes: Mapping[str, str]) -> tuple[str, str, str, str, tuple[str, ...]]:
    """Return what is shown of an absolute target. What another device measured has no change against the baseline."""
    value = formatting.NOTHING if verdict.value is None else target_text(name, verdict.value, verdict.metric)
    where = f"on {verdict.device or verdict.split or ''}".removesuffix("on ")
    return spoken(name).capitalize(), value, where, "" if verdict.device else changes[TARGETS[name].figure], ()


def bound(name: str, verdict: Verdict) -> str:
    """Return a target as its tile shows it."""
    return bound_text(name, verdict.target, verdict.metric, at_most=verdict.at_most)


def _latencies(found: Latency | NotMeasured) -> str:
    if isinstance(found, NotMeasured):
        return "not measured"
    return f"{formatting.milliseconds(found.baseline_median_ms)} → {formatting.milliseconds(found.median_ms)}"


def _scores(base: Score | NotMeasured, best: Score | NotMeasured) -> str:
    if isinstance(base, NotMeasured) or isinstance(best, NotMeasured):
        return "not measured"
    return f"{formatting.score(base)} → {formatting.score(best)}"


def _less(reduction: float, less: str, more: str) -> tuple[str, str]:
    return formatting.percent(abs(reduction)), more if round(reduction, 3) < 0 else less


def sizes(report: Report) -> tuple[str, ...]:
    """Compare the result's size with the uploaded file, 16 bit and float32."""
    found, sent = report.ratios, report.uploaded
    named = (
        (found.size_reduction_from_file, f"the uploaded file ({formatting.size(sent.bytes)} {sent.dtype})")
        if sent
        else (None, ""),
        (found.size_reduction_from_16_bit, "16 bit"),
        (found.size_reduction_from_float32, "float32"),
    )
    text = ", ".join(f"{change(value)} vs {what}" for value, what in named if value is not None)
    return (text,) if text else ()


def pictures(rows: list[Row]) -> list[Picture]:
    """Draw parameters, bytes, latency and score of each stage against the widest."""
    if len(rows) < 2:
        return []
    timed = [(row.stage, row.latency) for row in rows if isinstance(row.latency, Latency)]
    scored = [(row.stage, score) for row in rows if isinstance(score := row.judged_score, Score)]
    per_token = any(latency.generation for _, latency in timed)
    on_validation = all(row.validation is not None for row in rows)
    found = [
        _picture("Parameters", [(row.stage, row.parameters.total, formatting.count(row.parameters.total)) for row in rows]),
        _picture("Size", [(row.stage, row.size.bytes, formatting.size(row.size.bytes)) for row in rows]),
        _picture(
            "Latency per token" if per_token else "Latency",
            [(stage, *_timed(latency, timed[0][1])) for stage, latency in timed],
        ),
        _picture(
            metric(rows) + (" on validation" if on_validation else ""),
            [(stage, score.value, formatting.score(score)) for stage, score in scored],
        ),
    ]
    return [picture for picture in found if picture.bars]


def _timed(found: Latency, first: Latency) -> tuple[float, str]:
    """Return the length of a stage's bar and its text."""
    text = formatting.milliseconds(found.median_ms)
    if found is not first:
        text += f" of {formatting.milliseconds(found.baseline_median_ms)}"
    return latency_bars.scale(found, first) * found.median_ms, text


def metric(rows: list[Row]) -> str:
    """Return the metric's name for the titles of pictures."""
    score = next((row.score for row in rows if isinstance(row.score, Score)), None)
    if score is None:
        return "Score"
    return formatting.title(score.metric) + (", lower is better" if score.lower_is_better else "")


def _picture(title: str, found: list[tuple[str, float, str]]) -> Picture:
    widest = max((abs(value) for _, value, _ in found), default=0.0) or 1.0
    bars = tuple(Bar(stage, max(0.0, value) / widest, text) for stage, value, text in found)
    return Picture(title, bars, f"{title}: " + ", ".join(f"{formatting.title(bar.stage)} {bar.text}" for bar in bars))


def cuts(report: Report) -> list[Cut]:
    """List the pruned dimensions, of one dataset or of each of several."""
    found = [("", report.pruning or {}), *((f"{part.name}: ", part.pruning or {}) for part in report.parts)]
    return [
        Cut(
            prefix + axis,
            facts["before"],
            facts["after"],
            facts.get("asked"),
            facts.get("taken"),
            facts.get("groups", {}),
            facts.get("each", {}),
            facts.get("mean", False),
        )
        for prefix, axes in found
        for axis, facts in axes.items()
        if isinstance(facts, dict) and "before" in facts and "after" in facts
    ]
