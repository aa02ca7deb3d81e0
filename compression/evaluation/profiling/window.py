"""Times passes over a window, samples memory and reads the sensor of energy meanwhile. Torch-free."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt

import numpy as np
import psutil

from compression.schema.profile import MOST_SAMPLES, Energy, MemoryRange, ProfiledLatency
from compression.schema.report.measurements import NotMeasured
from compression.system.sensors import Sensor

PARTS = 10  #: parts of a window, from which the error of its power is estimated
WARM_UP_RUNS, WARM_UP_SHARE = 10, 0.2  #: passes before the window, and their time at most, in windows
FEWEST_PASSES = 3
SECONDS_BETWEEN = 0.02  #: samples of memory


@dataclass(frozen=True)
class Power:
    """What a sensor showed in a window."""

    joules: float
    seconds: float
    parts: tuple[float, ...]  #: watts in each part

    @property
    def watts(self) -> float:
        """Return the mean power."""
        return self.joules / self.seconds

    @property
    def error(self) -> float:
        """Return the standard error of the mean power, from its parts."""
        return statistics.stdev(self.parts) / sqrt(len(self.parts))


@dataclass(frozen=True)
class Window:
    """Passes that were timed one after the other."""

    times_ms: tuple[float, ...]
    seconds: float
    power: Power | None


class Meter:
    """Reads a sensor at the ends of a window and of its parts. Raises OSError if the sensor fails."""

    def __init__(self, sensor: Sensor, seconds: float) -> None:
        self._sensor, self._part = sensor, seconds / PARTS
        self._readings = [(time.perf_counter(), sensor.joules())]

    def check(self) -> None:
        """Read the sensor if a part is over."""
        if time.perf_counter() - self._readings[-1][0] >= self._part:
            self._readings.append((time.perf_counter(), self._sensor.joules()))

    def power(self) -> Power:
        """End the window. A rest of less than half a part is left out: its power would be mostly error."""
        if len(self._readings) == 1 or time.perf_counter() - self._readings[-1][0] >= self._part / 2:
            self._readings.append((time.perf_counter(), self._sensor.joules()))
        (start, first), (end, last) = self._readings[0], self._readings[-1]
        steps = zip(self._readings, self._readings[1:], strict=False)
        return Power(last - first, end - start, tuple((more - less) / (to - at) for (at, less), (to, more) in steps))


def idle_power(sensor: Sensor, seconds: float) -> Power:
    """Measure the power of a machine on which this process only waits."""
    meter = Meter(sensor, seconds)
    for _ in range(PARTS):
        time.sleep(seconds / PARTS)
        meter.check()
    return meter.power()


def warm_up(run: Callable[[], object], seconds: float) -> None:
    """Run a few passes before a window of so many seconds: one at least, and no more than take a share of it."""
    end = time.perf_counter() + WARM_UP_SHARE * seconds
    for _ in range(WARM_UP_RUNS):
        run()
        if time.perf_counter() > end:
            return


def timed(run: Callable[[], object], seconds: float, sensor: Sensor | None = None) -> Window:
    """Run passes for a time, and no fewer than FEWEST_PASSES."""
    meter = Meter(sensor, seconds) if sensor is not None else None
    times: list[float] = []
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds or len(times) < FEWEST_PASSES:
        run()
        times.append(round(1000 * (time.perf_counter() - now), 6))
        if meter is not None:
            meter.check()
    return Window(tuple(times), time.perf_counter() - started, meter.power() if meter is not None else None)


def latency_of(times_ms: Sequence[float]) -> ProfiledLatency:
    """Summarize the times of passes, and keep as many as a profile has room for."""
    every = -(-len(times_ms) // MOST_SAMPLES)
    return ProfiledLatency(
        median_ms=statistics.median(times_ms), p95_ms=float(np.percentile(times_ms, 95)), samples_ms=list(times_ms[::every])
    )


def energy_of(idle: Power, busy: Power, rows_per_second: float, source: str) -> Energy | NotMeasured:
    """Return the power above idle, and its energy for each row, or why it is not known."""
    if min(len(idle.parts), len(busy.parts)) < 2:
        return NotMeasured(
            not_measured="The window held too few passes to estimate the error of its power: ask for more seconds."
        )
    watts, error = busy.watts - idle.watts, sqrt(busy.error**2 + idle.error**2)
    if watts <= 0:
        cause = f"While it computed, {source} showed {busy.watts:.3g} W, and {idle.watts:.3g} W while it waited"
        return NotMeasured(not_measured=f"{cause} (standard error of the difference {error:.2g} W): ask for more seconds.")
    return Energy(
        joules_per_row=watts / rows_per_second,
        watts=watts,
        idle_watts=idle.watts,
        window_seconds=busy.seconds,
        error_watts=error,
        source=source,
    )


@contextmanager
def sampled_memory() -> Iterator[Callable[[], MemoryRange]]:
    """Sample this process's resident memory, and give a function that returns the range so far."""
    process, ended = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def sample() -> None:
        while not ended.wait(SECONDS_BETWEEN):
            now = process.memory_info().rss
            seen[:] = [min(seen[0], now), max(seen[-1], now)]

    def range_so_far() -> MemoryRange:
        now = process.memory_info().rss
        return MemoryRange(min_bytes=min(*seen, now), max_bytes=max(*seen, now))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield range_so_far
    finally:
        ended.set()
        thread.join()
