"""Tracks job progress and ETA from weighted phases."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Generic, TypeVar

from compression.schema.events import Log, Progress, TrainingSaved
from compression.schema.stages import BASELINE, Stage

News = TypeVar("News")
Result = TypeVar("Result")


class Returning(Generic[News, Result]):
    """Iterates over a generator and keeps its return value."""

    result: Result

    def __init__(self, news: Generator[News, None, Result]) -> None:
        self._news = news

    def __iter__(self) -> Iterator[News]:
        """Yield the generator's items; then `result` is set."""
        self.result = yield from self._news


@dataclass(frozen=True)
class Step:
    """The position of a loop."""

    step: int
    total: int
    loss: float | None = None
    rate: float | None = None
    score: float | None = None  #: on validation, after an epoch
    resumed: bool = False  #: the steps before it took no time in this attempt


def count_rows(check_pause: Callable[[], None], total: int, *askings: Iterable[int]) -> Generator[Step, None, None]:
    """Yield the rows done so far while batch iterators run one after the other.

    askings: each yields the rows that it just processed. total: rows of all, or more if some may be skipped. check_pause:
    called before each batch; an exception that it raises ends the iteration.
    """
    done, batches = 0, chain(*askings)
    yield Step(0, total)
    while done < total:
        check_pause()
        done += next(batches, total - done)
        yield Step(done, total)


def portion_of(ticks: Generator[Step, None, Result], number: int, count: int) -> Generator[Step, None, Result]:
    """Yield steps as those of portion `number`, from 0, of `count` equal portions; return the generator's result."""
    for news in (each := Returning(ticks)):
        yield replace(news, step=number * news.total + news.step, total=count * news.total)
    return each.result


def run_silently(ticks: Generator[Any, None, Result]) -> Result:
    """Run through all steps without reporting them; return the generator's result."""
    for _ in (each := Returning(ticks)):
        pass
    return each.result


SECONDS_BETWEEN = 0.5
"""A step that follows sooner than this is not reported, unless it has a score, begins a phase or ends it."""


@dataclass(frozen=True)
class Phase:
    """One stretch of work."""

    stage: Stage
    name: str
    weight: float  #: its expected share of time, in any unit that all phases share
    part: str = ""  #: the dataset that it is for, if the job has several


class ProgressTracker:
    """The phases of a job, one running. The fraction never falls. The job sets `stage` and `part`."""

    def __init__(self, phases: list[Phase]) -> None:
        self.phases = phases
        self.stage: Stage = phases[0].stage if phases else BASELINE
        self.part = ""
        self._whole = sum(phase.weight for phase in phases) or 1.0
        self._reached = 0.0
        self._reported = 0.0
        self._started: tuple[float, float] | None = None

    def skip(self, stage: Stage) -> None:
        """Count all phases of a stage as done: the job resumed from its checkpoint."""
        for phase in self.phases:
            if phase.stage == stage:
                self._reached = max(self._reached, self._before(phase) + phase.weight / self._whole)

    def emit(self, phase: str, tick: Step) -> Iterator[Progress]:
        """Yield the progress event of a step, or nothing if one was emitted a moment ago."""
        now = time.monotonic()
        edge = tick.resumed or tick.step in (0, tick.total)
        if now - self._reported < SECONDS_BETWEEN and not edge and tick.score is None:
            return
        self._reported = now
        here = self._phase(phase)
        reached = self._before(here) + here.weight / self._whole * (tick.step / max(tick.total, 1))
        self._reached = min(max(self._reached, reached), 1.0)
        if tick.resumed:
            self._started = None
        figures = {name: value for name, value in vars(tick).items() if name != "resumed"}
        place = {"stage": self.stage, "phase": phase, "part": self.part}
        yield Progress(**place, **figures, fraction=self._reached, eta_seconds=self._eta(now))

    def emit_boundary(self, phase: str, done: bool) -> Iterator[Progress]:
        """Yield the beginning or the end of a phase that has no steps of its own."""
        yield from self.emit(phase, Step(step=int(done), total=1))

    def after(self, phase: str, tick: Step) -> Progress:
        """Return the progress event of work behind all phases, which has no share of the job's time."""
        place = {"stage": self.stage, "phase": phase, "part": self.part}
        return Progress(**place, step=tick.step, total=tick.total, fraction=self._reached)

    def relay(
        self, phase: str, ticks: Generator[Step | TrainingSaved | Log, None, Result]
    ) -> Generator[Progress | TrainingSaved | Log, None, Result]:
        """Yield a training loop's steps as progress events and its other events unchanged; return its result."""
        for news in (each := Returning(ticks)):
            if isinstance(news, Step):
                yield from self.emit(phase, news)
            else:
                yield news
        return each.result

    def _phase(self, name: str) -> Phase:
        for phase in self.phases:
            if (phase.stage, phase.name, phase.part) == (self.stage, name, self.part):
                return phase
        raise KeyError(f"no phase {name!r} of {self.stage}")

    def _before(self, phase: Phase) -> float:
        return sum(earlier.weight for earlier in self.phases[: self.phases.index(phase)]) / self._whole

    def _eta(self, now: float) -> float | None:
        # From this attempt's own pace only: steps that a resumed attempt skipped took it no time.
        if self._started is None:
            self._started = (now, self._reached)
        since, first = self._started
        gained = self._reached - first
        return (now - since) / gained * (1 - self._reached) if gained > 0 else None
