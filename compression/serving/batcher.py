"""Runs the rows of many requests in batches, on one thread, in the order in which their length groups are due."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from compression.modalities.scoring.base import Floats
from compression.serving.batching import Arrivals, BatchRules, BatchTime, Queue, length_group

Run = Callable[[Sequence[Any]], Sequence[Floats]]
Anchors = Mapping[int, Mapping[int, float]]  #: seconds of a batch by length group and number of rows


class QueueFull(Exception):
    """More rows wait than may. `seconds`: until there is room, as far as is known."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the queue is full")
        self.seconds = seconds


@dataclass(frozen=True)
class Ran:
    """A batch that was run, for metrics."""

    rows: int
    seconds: float
    waits: tuple[float, ...]  #: seconds from each row's arrival to the batch's start


@dataclass(frozen=True)
class Answered:
    """The logits of a request's windows, and the number of rows of the largest batch that one of them was in."""

    logits: list[Floats]
    rows: int


@dataclass(eq=False)
class _Row:
    window: Any
    arrived: float
    answer: "asyncio.Future[tuple[Floats, int]]"


@dataclass
class _Group:
    """Waiting rows of like length."""

    arrivals: Arrivals
    times: BatchTime
    rows: "deque[_Row]" = field(default_factory=deque)


class Batcher:
    """Batches windows by load.

    `async with` starts and drains it: rows that wait at the end are still run, new ones are refused. run: computes a batch's
    logits, on a thread of its own; length: of a window; most_waiting: rows that may wait; heard: called after each batch.
    """

    def __init__(
        self,
        run: Run,
        rules: BatchRules,
        *,
        length: Callable[[Any], int] = len,
        most_waiting: int = 256,
        anchors: Anchors | None = None,
        heard: Callable[[Ran], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run, self.rules, self.length, self.most_waiting = run, rules, length, most_waiting
        self.anchors, self.heard, self.clock = anchors or {}, heard, clock
        self.groups: dict[int, _Group] = {}
        self.arrivals = Arrivals(rules.target)
        self.waiting = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "runner")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._schedule())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    @property
    def alive(self) -> bool:
        """Whether rows are run and new ones are taken."""
        return self._task is not None and not self._task.done() and not self._closing

    async def answer(self, windows: Sequence[Any]) -> Answered:
        """Run windows -> the logits of each. Raises QueueFull, and what running them raises."""
        if not self.alive or self.waiting + len(windows) > self.most_waiting:
            raise QueueFull(self._seconds_left())
        loop, now = asyncio.get_running_loop(), self.clock()
        rows = [_Row(window, now, loop.create_future()) for window in windows]
        for row in rows:
            group = self._group(length_group(self.length(row.window)))
            group.arrivals.arrive(now)
            self.arrivals.arrive(now)
            group.rows.append(row)
        self.waiting += len(rows)
        self._arrived.set()
        try:
            found = await asyncio.gather(*(row.answer for row in rows))
        except BaseException:  # also if the request was given up: what still waits of it is not run
            for row in rows:
                row.answer.cancel()
            raise
        return Answered([logits for logits, _ in found], max((size for _, size in found), default=0))

    def _group(self, length: int) -> _Group:
        if length not in self.groups:
            self.groups[length] = _Group(Arrivals(self.rules.target), BatchTime(self.anchors.get(length)))
        return self.groups[length]

    def _seconds_left(self) -> float:
        """Return how long the waiting rows take at most, as far as is known."""
        groups = [group for group in self.groups.values() if group.rows]
        return sum(line.seconds(1) * len(group.rows) for group in groups if (line := group.times.line))

    async def _schedule(self) -> None:
        while self.waiting or not self._closing:
            group = min((group for group in self.groups.values() if group.rows), key=_arrival, default=None)
            if group is None:
                await self._arrival(None)
                continue
            queue, line = self._queue(group), group.times.line
            seconds = 0.0 if self._closing else self.rules.wait(line, queue)
            if seconds > 0:
                await self._arrival(seconds)
                continue
            await self._run(group, self.rules.rows(line, queue))

    async def _arrival(self, seconds: float | None) -> None:
        self._arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()

    def _queue(self, group: _Group) -> Queue:
        now = self.clock()
        age, gaps = now - group.rows[0].arrived, (group.arrivals.gap(now), self.arrivals.gap(now))
        return Queue(len(group.rows), self.waiting, age, *gaps)

    async def _run(self, group: _Group, size: int) -> None:
        taken = [group.rows.popleft() for _ in range(size)]
        self.waiting -= size
        rows = [row for row in taken if not row.answer.done()]
        if not rows:
            return
        started = self.clock()
        try:
            logits, seconds = await self._computed([row.window for row in rows])
        except Exception as problem:
            if len(rows) == 1:
                if not rows[0].answer.done():  # given up meanwhile, as the other windows of a failed request are
                    rows[0].answer.set_exception(problem)
                return
            for row in rows:  # each on its own: one that cannot be computed does not fail the others
                group.rows.appendleft(row)
                self.waiting += 1
                await self._run(group, 1)
            return
        group.times.observe(len(rows), seconds)
        self.heard(Ran(len(rows), seconds, tuple(started - row.arrived for row in rows)))
        for row, one in zip(rows, logits, strict=True):
            if not row.answer.done():
                row.answer.set_result((one, len(rows)))

    async def _computed(self, windows: Sequence[Any]) -> tuple[Sequence[Floats], float]:
        def timed() -> tuple[Sequence[Floats], float]:
            started = self.clock()
            return self.run(windows), self.clock() - started

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)


def _arrival(group: _Group) -> float:
    return group.rows[0].arrived
