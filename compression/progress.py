"""Where the whole job is, and how long it will still take: phases with a weight each, walked through one after the other."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from compression.plan import Tick
from compression.report import Log, Progress, Stage, TrainingSaved

Result = TypeVar("Result")
SECONDS_BETWEEN = 0.5
"""Ticks that follow sooner than this are not told, unless they carry a score, begin a phase or end it."""


@dataclass(frozen=True)
class Phase:
    """One stretch of work. `weight` is its expected share of time, in any unit that all phases share.

    `part` is the dataset that it is for, of several.
    """

    stage: Stage
    name: str
    weight: float
    part: str = ""


class Journey:
    """The phases of a job. Its fraction never falls. `part` names the dataset that is at work, of several."""

    def __init__(self, phases: list[Phase]) -> None:
        self.phases = phases
        self.part = ""
        self._whole = sum(phase.weight for phase in phases) or 1.0
        self._reached = 0.0
        self._told = 0.0
        self._started: tuple[float, float] | None = None

    def skip(self, stage: Stage) -> None:
        """Count all phases of a stage as done: it was resumed from its checkpoint."""
        for phase in self.phases:
            if phase.stage == stage:
                self._reached = max(self._reached, self._before(phase) + phase.weight / self._whole)

    def at(self, stage: Stage, phase: str, tick: Tick) -> Iterator[Progress]:
        """Yield the progress that `tick` means, or nothing where one was told a moment ago."""
        now = time.monotonic()
        edge = tick.resumed or tick.step in (0, tick.total)
        if now - self._told < SECONDS_BETWEEN and not edge and tick.score is None:
            return
        self._told = now
        here = self._phase(stage, phase)
        reached = self._before(here) + here.weight / self._whole * (tick.step / max(tick.total, 1))
        self._reached = min(max(self._reached, reached), 1.0)
        if tick.resumed:
            self._started = None
        yield Progress(
            stage=stage,
            phase=phase,
            step=tick.step,
            total=tick.total,
            fraction=self._reached,
            eta_seconds=self._eta(now),
            loss=tick.loss,
            rate=tick.rate,
            score=tick.score,
            part=self.part,
        )

    def mark(self, stage: Stage, phase: str, done: bool) -> Iterator[Progress]:
        """Yield the beginning or the end of a phase that has no steps of its own."""
        yield from self.at(stage, phase, Tick(step=int(done), total=1))

    def follow(
        self, stage: Stage, phase: str, ticks: Generator[Tick | TrainingSaved | Log, None, Result]
    ) -> Generator[Progress | TrainingSaved | Log, None, Result]:
        """Pass a training loop's ticks on as progress, and its other news as they are; return what it returns."""
        while True:
            try:
                news = next(ticks)
            except StopIteration as end:
                result: Result = end.value
                return result
            if isinstance(news, Tick):
                yield from self.at(stage, phase, news)
            else:
                yield news

    def _phase(self, stage: Stage, name: str) -> Phase:
        for phase in self.phases:
            if (phase.stage, phase.name, phase.part) == (stage, name, self.part):
                return phase
        raise KeyError(f"no phase {name!r} of {stage}")

    def _before(self, phase: Phase) -> float:
        return sum(earlier.weight for earlier in self.phases[: self.phases.index(phase)]) / self._whole

    def _eta(self, now: float) -> float | None:
        # From this attempt's own pace only: what a resumed attempt skipped took it no time.
        if self._started is None:
            self._started = (now, self._reached)
        since, first = self._started
        gained = self._reached - first
        return (now - since) / gained * (1 - self._reached) if gained > 0 else None
