"""Times alternatives in turns of alternating order in one process, so that other load reaches all of them."""

import statistics
import time
from collections.abc import Hashable, Mapping
from typing import TypeVar

from bench.alignment.layers import Run

Name = TypeVar("Name", bound=Hashable)
WARM_UP = 5


def times(runs: Mapping[Name, Run], turns: int) -> dict[Name, list[float]]:
    """Return the milliseconds of each turn, on the wall."""
    found: dict[Name, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP + turns):
        for name in runs if turn % 2 else reversed(list(runs)):
            start = time.perf_counter_ns()
            runs[name]()
            if turn >= WARM_UP:
                found[name].append((time.perf_counter_ns() - start) / 1e6)
    return found


def share(own: list[float], other: list[float]) -> list[float]:
    """Return the quartiles of own / other, turn by turn."""
    return [round(value, 4) for value in statistics.quantiles([a / b for a, b in zip(own, other, strict=True)], n=4)]
