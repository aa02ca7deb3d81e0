"""When a batch is run, and of how many rows: the rules of `batcher`, without clocks or threads.

A batch of n rows takes fixed + per_row * n seconds. A row that joins a batch saves each row behind it one fixed cost, and
delays each row of the batch by its own time. Rows join, or are waited for, as long as the first is worth more than the second.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

FORGETTING = 0.9  #: weight of a measurement after the next one: the last ten or so count
ANCHOR = (
    2.0  #: weight of each batch that was timed at the start; such batches tell fixed from per_row when all others are alike
)
GAPS = 0.1  #: weight of the newest gap in the mean
SMALLEST = 8  #: least difference in length between groups of rows


def length_group(length: int) -> int:
    """Return the length that rows of like length are grouped under: at most a third longer, or SMALLEST positions."""
    if length <= 0:
        return 0
    step = max(SMALLEST, 1 << max((length - 1).bit_length() - 2, 0))
    return -(-length // step) * step


@dataclass(frozen=True)
class Line:
    """Seconds of a batch by its number of rows."""

    fixed: float
    per_row: float

    def seconds(self, rows: int) -> float:
        """Return the time of a batch."""
        return self.fixed + self.per_row * rows


class BatchTime:
    """Fits a `Line` to measured batches by least squares; older ones count ever less.

    anchors: seconds by rows, of batches timed before the load. They keep their ratios and follow the level of later ones.
    """

    def __init__(self, anchors: Mapping[int, float] | None = None) -> None:
        self.anchors = dict(anchors or {})
        self.weight = self.rows = self.squares = self.seconds = self.products = 0.0
        self._line = self._fit()

    @property
    def line(self) -> Line | None:
        """The fit; None before the first measurement."""
        return self._line

    def observe(self, rows: int, seconds: float) -> None:
        """Take in a batch."""
        self.weight = self.weight * FORGETTING + 1
        self.rows = self.rows * FORGETTING + rows
        self.squares = self.squares * FORGETTING + rows * rows
        self.seconds = self.seconds * FORGETTING + seconds
        self.products = self.products * FORGETTING + rows * seconds
        self._line = self._fit()

    def _fit(self) -> Line | None:
        sums: tuple[float, ...] = (self.weight, self.rows, self.squares, self.seconds, self.products)
        if self.anchors:
            level = 1.0
            if self.weight and (before := solve(*_sums(self.anchors))):
                expected = before.fixed * self.weight + before.per_row * self.rows
                level = self.seconds / expected if expected > 0 else 1.0
            known = _sums({rows: seconds * level for rows, seconds in self.anchors.items()})
            sums = tuple(one + ANCHOR * other for one, other in zip(sums, known, strict=True))
        return solve(*sums)


def _sums(points: Mapping[int, float]) -> tuple[float, float, float, float, float]:
    rows, seconds = list(points), list(points.values())
    products = sum(one * other for one, other in points.items())
    return float(len(rows)), float(sum(rows)), float(sum(one * one for one in rows)), sum(seconds), products


def solve(weight: float, rows: float, squares: float, seconds: float, products: float) -> Line | None:
    """Return the least-squares line without negative parts from weighted sums; None if nothing was measured.

    If all batches had one size, all of their time counts as that of their rows.
    """
    if weight <= 0:
        return None
    spread = weight * squares - rows * rows
    slope = (weight * products - rows * seconds) / spread if spread > 1e-9 * weight * squares else math.inf
    fixed = (seconds - slope * rows) / weight if math.isfinite(slope) else -1.0
    if fixed < 0:
        return Line(0.0, products / squares)
    return Line(fixed, slope) if slope > 0 else Line(seconds / weight, 0.0)


@dataclass
class Arrivals:
    """The mean time between arrivals, of which the newest count most."""

    longest: float  #: seconds; longer gaps count as this one, so that a pause is soon forgotten
    last: float | None = None
    mean: float = field(default=math.inf)

    def arrive(self, now: float) -> None:
        """Take in an arrival."""
        if self.last is not None:
            gap = min(now - self.last, self.longest)
            self.mean = gap if math.isinf(self.mean) else self.mean + GAPS * (gap - self.mean)
        self.last = now

    def gap(self, now: float) -> float:
        """Return the expected seconds to the next arrival. It grows while nothing comes."""
        return math.inf if self.last is None else max(self.mean, now - self.last, 1e-6)


@dataclass(frozen=True)
class Queue:
    """What waits: rows of one length group, of which the oldest row is, and all."""

    here: int
    everywhere: int
    age: float  #: seconds that the oldest row has waited
    gap: float  #: expected seconds to the next row of the group; infinite: none is expected
    any_gap: float  #: to the next row of any length


@dataclass(frozen=True)
class BatchRules:
    """Chooses the size of batches under a target."""

    most: int  #: rows of a batch
    target: float  #: seconds from a row's arrival to its answer

    def rows(self, line: Line | None, queue: Queue) -> int:
        """Return how many of the waiting rows the next batch has, at least 1."""
        most = min(queue.here, self.most)
        if line is None:
            return most
        rows = 1
        while rows < most and _behind(line, queue, rows) * line.fixed > rows * line.per_row:
            rows += 1
        # A row that can still be answered in time is not made late by those that join it.
        if queue.age + line.seconds(1) <= self.target:
            while rows > 1 and queue.age + line.seconds(rows) > self.target:
                rows -= 1
        return rows

    def wait(self, line: Line | None, queue: Queue) -> float:
        """Return the seconds to wait for another row before all that waits is run; 0 for none."""
        rows, gap = queue.here, queue.gap
        if line is None or rows >= self.most or rows < queue.everywhere or gap >= line.fixed:
            return 0.0
        if queue.age + gap + line.seconds(rows + 1) > self.target:
            return 0.0
        # It saves those behind a fixed cost and costs them the pause; rows of this batch lose the pause and the row's time.
        behind = 1 + line.seconds(rows) / queue.any_gap
        return gap if (line.fixed - gap) * behind > rows * (line.per_row + gap) else 0.0


def _behind(line: Line, queue: Queue, rows: int) -> float:
    """Return how many rows gain if one more joins a batch of `rows`: it, those that wait, and those that come meanwhile."""
    return queue.everywhere - rows + line.seconds(rows) / queue.any_gap
