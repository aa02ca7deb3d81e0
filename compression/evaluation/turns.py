"""Times two models in turns, and tells which turns other processes of the machine disturbed. Torch-free.

On a busy machine a pass is interrupted the more often, the longer it takes: the median of the slower model is then too long by
more than that of the faster one, and the speed-up is told too large (docs/decisions/0079).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compression.schema.report.draws import Interval
from compression.system.processor_waits import ProcessorWaits

INTERRUPTED = 0.02  #: share of a pass that it waits for a processor, from which it counts as interrupted
UNCOUNTED_PASSES, UNCOUNTED_SECONDS = 4, 0.02  #: of a model before each pass that counts: no more than both
BLOCK, SAMPLES = 8, 1000  #: turns that are drawn together, and how often all are drawn, for an interval
FEWEST_QUIET = 20  #: turns without interruption, from which the others do not count

Ask = Callable[[], object]


@dataclass
class Turns:
    """The passes of both sides, by turn: milliseconds, nanoseconds of work by a clock, and whether one was interrupted."""

    milliseconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    worked: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    interrupted: list[bool] = field(default_factory=list)

    def take(self, asks: Sequence[Ask], timer: "Timer", *, settles: bool = True) -> None:
        """Time one pass of each model; every other turn begins with the last. settles: after passes that do not count."""
        order = 1 if len(self.interrupted) % 2 == 0 else -1
        passes = []
        for ask in asks[::order]:
            if settles:
                settle(ask)
            passes.append(timer.time(ask))
        self.add(passes[::order])

    def add(self, passes: Sequence["Pass"]) -> None:
        """Take one turn. passes: the candidate's and the baseline's; a single one is both."""
        for side in (0, -1):
            self.milliseconds[side].append(passes[side].milliseconds)
            self.worked[side].append(passes[side].worked)
        self.interrupted.append(any(one.interrupted for one in passes))

    @property
    def disturbed(self) -> float:
        """Return the share of turns in which a pass was interrupted."""
        return sum(self.interrupted) / len(self.interrupted)

    def quiet(self) -> "Turns":
        """Return the turns that count: those without interruption, or all if too few are."""
        kept = [number for number, one in enumerate(self.interrupted) if not one]
        if len(kept) < FEWEST_QUIET:
            return self
        own, reference = ([side[number] for number in kept] for side in self.milliseconds)
        worked, reference_worked = ([side[number] for number in kept] for side in self.worked)
        return Turns((own, reference), (worked, reference_worked), [False] * len(kept))


@dataclass(frozen=True)
class Pass:
    """One pass of a model. worked: nanoseconds of processor time, or with several threads of wall-clock time."""

    milliseconds: float
    worked: int
    interrupted: bool


class Timer:
    """Times passes of models that run in `threads` threads. The thread that asks opens it, once all of them are there.

    The wall-clock time of one thread is without what it waited for a processor. Several threads do not wait at once: how long a
    pass takes without that is unknown, and its time is as it was.
    """

    def __init__(self, threads: int) -> None:
        # Of one thread this one computes; what others of the process wait for, as one that reports, is not the model's time.
        self._waits, self._one = ProcessorWaits(every=threads > 1), threads == 1

    def __enter__(self) -> "Timer":
        self._waits.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._waits.__exit__(*problem)

    def time(self, ask: Ask) -> Pass:
        """Time one pass."""
        before = self._waits.read()
        worked, computed, start = time.process_time_ns(), time.thread_time_ns(), time.perf_counter_ns()
        ask()
        took, computed = time.perf_counter_ns() - start, time.thread_time_ns() - computed
        worked = time.process_time_ns() - worked if self._one else took
        waited = min(max((late - early for early, late in zip(before, self._waits.read(), strict=True)), default=0), took)
        # A wait may have begun before the pass, or ended after it: a pass is no shorter than what its thread computed.
        own = max(took - waited, computed) if self._one else took
        return Pass(milliseconds=own / 1e6, worked=worked, interrupted=waited > INTERRUPTED * took)


def speed_up_interval(own: Sequence[float], reference: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the baseline's median time over the candidate's: percentiles of 1,000 samples of blocks of
    turns, for times of turns in a row are alike. own, reference: by turn; None if they are the same or fewer than two blocks.

    Künsch 1989, The jackknife and the bootstrap for general stationary observations.
    """
    turns = len(own)
    if own == reference or turns < 2 * BLOCK:
        return None
    starts = np.random.default_rng(0).integers(0, turns - BLOCK + 1, (SAMPLES, -(-turns // BLOCK)))
    rows = (starts[..., None] + np.arange(BLOCK)).reshape(SAMPLES, -1)[:, :turns]
    after, before = (np.median(np.asarray(side)[rows], axis=1) for side in (own, reference))
    low, high = np.percentile(before / after, [2.5, 97.5])
    return float(low), float(high)


def settle(ask: Ask) -> None:
    """Let a model answer passes that do not count: one at least, and more while they are short: caches hold small models."""
    until = time.perf_counter() + UNCOUNTED_SECONDS
    for _ in range(UNCOUNTED_PASSES):
        ask()
        if time.perf_counter() > until:
            return
