"""Times passes on a device, each of which begins when the device is idle: what one request waits for, not what many share.

By the device's own events, what the host does once the last kernel has ended does not count. What it does before does: an idle
device reaches the first event at once, so of a small batch, whose kernels end before others are launched, the launches count.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

WARM_UP_RUNS = 5
FEWEST_RUNS, MOST_RUNS = 10, 200
SECONDS = 2.0
"""For which one shape is repeated, approximately, between these numbers of runs."""
EVENTS, CLOCK = "device events", "the host's clock"

Timer = Callable[[Callable[[], object]], float]
"""Runs a pass and returns its milliseconds."""


def by_events(call: Callable[[], object]) -> float:
    """Return the milliseconds of a pass between two events on the current GPU's stream, which has nothing else to do."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    end.synchronize()
    found: float = begin.elapsed_time(end)
    return found


def by_clock(call: Callable[[], object]) -> float:
    """Return the milliseconds of a pass that returns once its answer is in the host's memory."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def repeat(call: Callable[[], object], timer: Timer, seconds: float = SECONDS) -> list[float]:
    """Return the milliseconds of each of several runs, after others that warm up."""
    for _ in range(WARM_UP_RUNS):
        last = timer(call)
    runs = min(max(int(1000 * seconds / max(last, 1e-3)), FEWEST_RUNS), MOST_RUNS)
    return [timer(call) for _ in range(runs)]


def summary(times: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile."""
    return statistics.median(times), float(np.percentile(times, 95))
