"""Charts as inline SVG, so that a report is self-contained. Pure functions from figures to markup.

Colours come from the page's style sheet by class, in light and dark; no colour carries information alone. Markup.format
escapes everything that comes from a job.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 420
LABEL, VALUE = 92, 128
"""Pixels left of the bars for labels, and right of them for values."""
BAR, GAP = 20, 10
HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 220, 62, 40, 26, 96
"""Dimensions of a chart with two axes."""
MARKS = ("circle", "square", "diamond")


@dataclass(frozen=True)
class Picture:
    """A chart and its caption."""

    caption: str
    svg: Markup


@dataclass(frozen=True)
class Bar:
    """One bar: `error` is drawn as a whisker to both sides; `chosen` marks the shipped artifact or, of ranges, outliers."""

    label: str
    value: float
    text: str
    error: float = 0.0
    chosen: bool = False


def bars(title: str, entries: Sequence[Bar]) -> Picture:
    """Draw horizontal bars from zero, each with its value behind it."""
    most = max([entry.value + entry.error for entry in entries] + [0.0])
    least = min([entry.value - entry.error for entry in entries if entry.value < 0] + [0.0])
    room = WIDTH - LABEL - VALUE
    scale = room / ((most - least) or 1.0)
    zero = LABEL - least * scale
    shapes = []
    for number, entry in enumerate(entries):
        top = GAP + number * (BAR + GAP)
        start, length = min(zero, zero + entry.value * scale), abs(entry.value) * scale
        middle, end = top + BAR / 2, zero + entry.value * scale
        shapes.append(
            Markup(
                '<text class="label" x="{}" y="{}" text-anchor="end">{}</text>'
                '<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}" rx="2"/>'
            ).format(LABEL - 8, middle + 4, entry.label, _kind(entry), start, top, max(length, 1.0), BAR)
        )
        if entry.error > 0:
            low, high = max(end - entry.error * scale, LABEL), end + entry.error * scale
            shapes.append(
                Markup('<path class="whisker" d="M{:.1f} {}H{:.1f}M{:.1f} {}v8M{:.1f} {}v8"/>').format(
                    low, middle, high, low, middle - 4, high, middle - 4
                )
            )
        shapes.append(
            Markup('<text class="value" x="{:.1f}" y="{}">{}</text>').format(WIDTH - VALUE + 10, middle + 4, entry.text)
        )
    description = "; ".join(f"{entry.label} {entry.text}" for entry in entries)
    return _picture(title, description, WIDTH, GAP + len(entries) * (BAR + GAP), shapes)


def columns(title: str, entries: Sequence[Bar], *, most: float) -> Picture:
    """Draw vertical bars side by side; `most` is the top of the axis."""
    width = max(WIDTH, LEFT + 8 * len(entries) + 20)
    step = (width - LEFT - 20) / max(len(entries), 1)
    room = HEIGHT - TOP - BOTTOM
    shapes = _frame(width - 20, "0", f"{most:g}", "layers in model order", "")
    for number, entry in enumerate(entries):
        height = room * min(max(entry.value / (most or 1.0), 0.0), 1.0)
        shapes.append(
            Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {}</title></rect>').format(
                _kind(entry), LEFT + number * step + 1, TOP + room - height, max(step - 2, 1.0), height, entry.label, entry.text
            )
        )
    return _picture(title, f"{len(entries)} layers; the table has the values", width, HEIGHT, shapes)


def curves(title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_name: str, y_name: str) -> Picture:
    """Draw one line per series, each with its own marks and its name at the end. A series has at least one point."""
    points = [point for line in series.values() for point in line]
    (left, right), (low, high) = _span(x for x, _ in points), _span(y for _, y in points)
    across, up = (WIDTH - LEFT - RIGHT) / (right - left), (HEIGHT - TOP - BOTTOM) / (high - low)
    shapes = _frame(WIDTH - RIGHT, f"{low:.3g}", f"{high:.3g}", f"{x_name}: {left:.3g} to {right:.3g}", y_name)
    placed: list[float] = []
    for number, (name, line) in enumerate(series.items()):
        where = [(LEFT + (x - left) * across, HEIGHT - BOTTOM - (y - low) * up) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        shapes.append(Markup('<polyline class="line s{}" points="{}"/>').format(number % 3, path))
        shapes += [_mark(number, x, y, f"{name}: {a:.3g}, {b:.4g}") for (x, y), (a, b) in zip(where, line, strict=True)]
        beside = where[-1][1]
        while any(abs(beside - other) < 14 for other in placed):
            beside += 14
        placed.append(beside)
        shapes.append(
            Markup('<text class="label" x="{:.1f}" y="{:.1f}">{} {}</text>').format(
                where[-1][0] + 8, beside + 4, "●■◆"[number % 3], name
            )
        )
    description = "; ".join(f"{name} from {line[0][1]:.4g} to {line[-1][1]:.4g}" for name, line in series.items() if line)
    return _picture(title, description, WIDTH, HEIGHT, shapes)


def _span(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    least, most = min(found), max(found)
    room = 0.02 * abs(least) or 0.5  # about a value that is alone
    return (least, most) if most > least else (least - room, most + room)


def _kind(entry: Bar) -> str:
    return "bar chosen" if entry.chosen else "bar"


def _mark(number: int, x: float, y: float, description: str) -> Markup:
    shape = MARKS[number % 3]
    if shape == "circle":
        body = Markup('<circle class="mark s0" cx="{:.1f}" cy="{:.1f}" r="4">').format(x, y)
        return body + Markup("<title>{}</title></circle>").format(description)
    turn = Markup(' transform="rotate(45 {:.1f} {:.1f})"').format(x, y) if shape == "diamond" else ""
    form = Markup('<rect class="mark s{}" x="{:.1f}" y="{:.1f}" width="7" height="7"{}>')
    body = form.format(number % 3, x - 3.5, y - 3.5, turn)
    return body + Markup("<title>{}</title></rect>").format(description)


def _frame(right: float, low: str, high: str, below: str, beside: str) -> list[Markup]:
    """Draw both axes with their names, and the ends of the vertical one."""
    floor = HEIGHT - BOTTOM
    return [
        Markup('<path class="axis" d="M{} {}V{}H{:.1f}"/>').format(LEFT, TOP, floor, right),
        Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 6, floor, low),
        Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 6, TOP + 8, high),
        Markup('<text class="tick" x="{}" y="{}">{}</text>').format(LEFT, HEIGHT - 14, below),
        Markup('<text class="tick" x="{}" y="{}">{}</text>').format(LEFT, TOP - 12, beside),
    ]


def _picture(title: str, description: str, width: float, height: float, shapes: Sequence[Markup]) -> Picture:
    body = Markup("").join(shapes)
    form = Markup('<svg class="picture" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}: {}">{}</svg>')
    return Picture(title, form.format(width, height, title, description, body))
