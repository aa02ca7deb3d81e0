"""Figures and times as pages write them."""

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

from compression.planning.estimator import Estimate
from compression.schema.report.measurements import Score, Shape, shown
from compression.schema.report.written import change, plain
from compression.schema.stages import STAGE_SPECS
from compression.schema.tasks import modality_spec, row_of

NOTHING = "–"
STEP = 1000
TITLES = {
    **{name: spec.title or name.capitalize() for name, spec in STAGE_SPECS.items()},
    "queued": "Queued",
    "running": "Running",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "accuracy_f1": "Mean of accuracy and F1",
}


def count(value: float | None) -> str:
    """1234567 → 1.23 M."""
    return NOTHING if value is None else _scaled(float(value), ("", " k", " M", " B", " T"))


def size(value: float | None) -> str:
    """Bytes, by powers of ten as disks are sold: 90868376 → 90.9 MB."""
    return NOTHING if value is None else _scaled(float(value), (" B", " kB", " MB", " GB", " TB"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    number = 0
    while abs(value) >= STEP - (0.5 if number else 0) and number < len(units) - 1:
        value, number = value / STEP, number + 1
    digits = 0 if number == 0 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}{units[number]}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.8765 → 87.7 %."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def forecast_text(value: Estimate) -> str:
    """15 min, 12 min to 19 min from 7 jobs."""
    text = duration(60 * value.minutes)
    if not value.jobs:
        return text
    jobs = f"from {value.jobs} job{'s' if value.jobs != 1 else ''}"
    if value.minutes_low is None or value.minutes_high is None:
        return f"{text}, {jobs}"
    return f"{text}, {duration(60 * value.minutes_low)} to {duration(60 * value.minutes_high)} {jobs}"


def interval(value: tuple[float, float], digits: int = 1) -> str:
    """(0.9712, 1.0148) → 97.1 to 101.5 %."""
    return f"{100 * value[0]:.{digits}f} to {100 * value[1]:.{digits}f} %"


def times(value: float | None) -> str:
    """2.345 → 2.35×."""
    return NOTHING if value is None else f"{value:.2f}×"


def milliseconds(value: float | None) -> str:
    """Milliseconds to three figures, or whole ones: 1234.5 → 1,234 ms."""
    return NOTHING if value is None else f"{plain(value)} ms"


def duration(seconds: float | None) -> str:
    """3725 → 1 h 2 min; 42.4 → 42 s."""
    if seconds is None:
        return NOTHING
    left = max(0, round(seconds))
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60} s" if left < 600 else f"{left // 60} min"
    return f"{left // 3600} h {left % 3600 // 60} min" if left < 86400 else f"{left // 86400} d {left % 86400 // 3600} h"


def moment(value: dt.datetime | None) -> str:
    """A time for machines; a script of the page rewrites it in the reader's zone."""
    return "" if value is None else value.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def shown_moment(value: dt.datetime | None) -> str:
    """A time without that script."""
    return NOTHING if value is None else f"{value.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"


def title(value: str) -> str:
    """A state or a stage as a title."""
    return TITLES.get(value, value.replace("_", " ").capitalize())


def plain_json(value: Any) -> str:
    """JSON on one line, for people: null is "none", as the form of a new job calls it."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def score(value: Score) -> str:
    """A score in its metric's own unit."""
    return metric_value(value.metric, value.value)


def score_error(value: Score) -> str:
    """A score's standard error in the same unit."""
    return metric_value(value.metric, value.standard_error)


def metric_value(metric: str | None, value: float | None) -> str:
    """A figure in a metric's own unit."""
    return NOTHING if value is None or metric is None else shown(metric, value).replace("%", " %")


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def shape_text(shape: Shape) -> str:
    """Return a model's shape: 6 layers, 384 wide, 12 heads; of a network of images its blocks and features."""
    if shape.widths is not None:
        return f"{shape.layers} residual blocks, {shape.hidden} features"
    return f"{shape.layers} layers, {shape.hidden} wide, {shape.heads} heads"


FILTERS: dict[str, Callable[..., Any]] = {
    "count": count,
    "bytes": size,
    "percent": percent,
    "change": change,
    "plain": plain,
    "interval": interval,
    "times": times,
    "ms": milliseconds,
    "duration": duration,
    "forecast_text": forecast_text,
    "moment": moment,
    "shown_moment": shown_moment,
    "title_of": title,
    "pretty": pretty,
    "tojson_plain": plain_json,
    "score": score,
    "score_error": score_error,
    "metric_value": metric_value,
    "row_word": row_of,
    "modality_of": lambda task: modality_spec(task).name,
    "shape_text": shape_text,
}
