"""Which shapes are timed to find the mildest that is fast enough: by halves, or first where a prediction says. Torch-free."""

from collections.abc import Sequence

GUESSES = 5
"""Shapes that are chosen by the prediction. If it misses so often, halves are sooner at the end."""


class LatencySearch:
    """Looks for the mildest of some shapes, the mildest first, whose latency is at most a limit.

    As long as `following` returns a shape's number, its latency is measured and given to `record`. At the end `found` was
    measured as fast enough and the milder one before it as too slow, whatever was predicted.
    """

    def __init__(self, count: int, limit: float, predicted: Sequence[float] | None = None) -> None:
        """count: of shapes. limit, predicted: latencies in one unit, which is also that of `record`."""
        self.limit, self.predicted = limit, predicted
        self.low, self.high = 0, count
        self.measured: dict[int, float] = {}
        self._factor = 1.0  # of the last measured latency against the predicted one

    @property
    def following(self) -> int | None:
        """Return the number of the shape to measure next, or None at the end."""
        if self.low >= self.high:
            return None
        if self.predicted is None or len(self.measured) >= GUESSES:
            return (self.low + self.high) // 2
        between = range(self.low, self.high)
        return next((at for at in between if self.predicted[at] * self._factor <= self.limit), between[-1])

    def record(self, latency: float) -> bool:
        """Take the latency of the shape that `following` named; return whether it is fast enough."""
        at = self.following
        if at is None:
            raise ValueError("the search is over")
        self.measured[at] = latency
        if self.predicted is not None:
            self._factor = latency / self.predicted[at]
        is_fast = latency <= self.limit
        self.low, self.high = (self.low, at) if is_fast else (at + 1, self.high)
        return is_fast

    @property
    def found(self) -> int:
        """Return the number of the mildest shape that is fast enough; that of all shapes if none is."""
        return self.high
