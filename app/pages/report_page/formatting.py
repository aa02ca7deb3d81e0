"""Figures as the report writes them."""

from compression.schema import stages as schema
from compression.schema.report.draws import Interval
from compression.schema.report.measurements import UNITS, NotMeasured, Row, Score, shown
from compression.schema.report.report import Verdict
from compression.schema.report.targets import bound_text, target_text
from compression.schema.report.written import MINUS, scaled

TIMES = "×"
STAGES = {name: spec.title or name.capitalize() for name, spec in schema.STAGE_SPECS.items()}


def count(number: float) -> str:
    """22713984 → 22.71 M."""
    return scaled(number, (1e9, "G"), (1e6, "M"), (1e3, "k")) or f"{number:g}"


def size(number: float) -> str:
    """90868376 → 90.87 MB (10⁶ bytes)."""
    return scaled(number, (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) or f"{number:g} B"


def milliseconds(value: float) -> str:
    """0.832 → 0.832 ms, 12.34 → 12.34 ms, 1234.5 → 1,234 ms."""
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:.2f} ms" if value >= 1 else f"{value:.3f} ms"


def percent(share: float) -> str:
    """0.358 → 35.8 %."""
    return f"{100 * share:.1f} %".replace("-", MINUS)


def duration(seconds: float) -> str:
    """3725 → 1 h 2 min; 65 → 1 min 5 s."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def score(found: Score) -> str:
    """85.33 % ± 0.91 %."""
    return f"{metric(found.metric, found.value)} ± {metric(found.metric, found.standard_error)}"


def metric(name: str, value: float) -> str:
    """Write a metric's value: shares in percent, others with their unit."""
    return shown(name, value).replace("%", " %").replace("-", MINUS) if name not in UNITS else shown(name, value)


def spoken(name: str) -> str:
    """parameter_reduction → parameter reduction."""
    return name.replace("_", " ")


def reached(name: str, verdict: Verdict) -> str:
    """Write the value that a target is compared with, with its split and 95 % interval if it has them."""
    if verdict.value is None:
        return "not measured"
    where = f" on {verdict.split}" if verdict.split is not None else ""
    ends = ""
    if verdict.interval is not None:
        low, high = (target_text(name, end, verdict.metric) for end in verdict.interval)
        ends = f" (95 % interval {low.removesuffix(' %')} to {high})"
    return verdict.figure_text(name) + where + ends


def target(name: str, verdict: Verdict) -> str:
    """Write a target: at most 120 ms on jetson."""
    where = f" on {verdict.device}" if verdict.device is not None else ""
    return bound_text(name, verdict.target, verdict.metric, at_most=verdict.at_most) + where


def unmeasured(value: object) -> str | None:
    """Return why a figure was not measured, or None."""
    return value.not_measured if isinstance(value, NotMeasured) else None


def interval(ends: Interval) -> str:
    """(0.9712, 1.0148) → 97.1 to 101.5 %."""
    return f"{percent(ends[0])[:-2]} to {percent(ends[1])}"


def kept(row: Row, split: str) -> str:
    """Write the share of the baseline's score on a split that a row keeps, with its 95 % interval."""
    found = row.ratios
    share, ends = found.retention, found.retention_interval
    if split == "validation":
        share, ends = found.retention_on_validation, found.retention_on_validation_interval
    if share is None:
        return ""
    between = f" ({interval(ends)})" if ends is not None else ""
    return f"{percent(share)} kept{between}{', unproven' if row.is_unproven else ''}"
