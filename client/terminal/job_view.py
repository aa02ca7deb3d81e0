"""Waits for a job and shows its progress: bars on a terminal, a line for each change elsewhere."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from client import errors
from client.api import AsyncLathe, Lathe
from client.terminal import render
from client.terminal.output import as_json, console
from client.terminal.text import one_line
from client.types import Event, Job
from compression.schema.stages import wanted

EXIT_CODES = {"succeeded": 0, "failed": errors.FAILED, "cancelled": errors.CANCELLED}
IN_BARS = ("progress",)
"""Events that the bars, or the line of a phase, show already."""
BEFORE = 5
"""Past events that are printed when a watch begins."""
LACKS = {
    "worker": ", no worker is running",
    "device": ", no worker has the device for it",
    "memory": ", no worker has the memory for it",
    "quota": ", the team has as many jobs at work as it may",
}


def stages(job: Job) -> list[str]:
    """Return the rows that the job will have: the baseline, and each stage that its recipe does not skip."""
    return list(wanted(job.recipe))


def headline(job: Job) -> str:
    """Return the job's state and progress in one line."""
    if job.state == "queued":
        place = f", number {job.queue_position} in the queue" if job.queue_position else ""
        starts = f", starts in about {render.duration(job.start_seconds)}" if job.start_seconds else ""
        lacks = LACKS.get(job.waits_for or "", "")
        again = f", attempt {job.attempt} was lost" if job.failures else ""
        return f"queued{place}{starts}{lacks}{again}"
    if job.cancel_requested_at and not job.ended:
        return "cancelling"
    found = job.progress
    if job.state == "succeeded" and job.ratios is not None and job.ratios.is_unproven(job.retention):
        return f"succeeded. {render.NOT_CONVERGED}"
    if job.state != "running" or found is None:
        return job.state
    step = f" {found.step}/{found.total}" if found.total else ""
    left = f", about {render.duration(found.eta_seconds)} left" if found.eta_seconds is not None else ""
    part = f"{found.part}, " if found.part else ""
    return f"{found.stage}: {part}{found.phase}{step}, {render.percent(found.fraction, 0)} of the job{left}"


class View:
    """Gets the job each time that it has changed, and lines beside it. This one shows nothing, for programs."""

    def show(self, job: Job) -> None:
        """Show the job's current state."""

    def tell(self, line: str) -> None:
        """Print a line; bars stay below it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""


class Lines(View):
    """For logs: a line per change of state, phase or row, and one every 15 seconds in long phases."""

    EVERY = 15.0

    def __init__(self) -> None:
        self._out = console(stderr=True)
        self._said: tuple[object, ...] = ()
        self._rows = 0
        self._at = 0.0

    def show(self, job: Job) -> None:
        """See View."""
        for row in job.rows[self._rows :]:
            stage, *figures = render.cells(row, task=job.task)
            line = f"{row.stage} done: {', '.join([*stage.split(', ')[1:], *figures])}"
            self._out.print(Text(one_line(line)), soft_wrap=True)
        self._rows = len(job.rows)
        now = (job.state, job.attempt, job.progress and (job.progress.stage, job.progress.part, job.progress.phase))
        if now != self._said or (job.state == "running" and time.monotonic() - self._at > self.EVERY):
            self._out.print(Text(one_line(headline(job))), soft_wrap=True)
            self._said, self._at = now, time.monotonic()

    def tell(self, line: str) -> None:
        """See View."""
        self._out.print(Text(one_line(line)), soft_wrap=True)


def validation(score: float) -> str:
    """Return a score on validation as text: shares are at most 1, and anything above is a perplexity."""
    return f"validation {render.percent(score)}" if score <= 1 else f"validation perplexity {score:.4g}, lower is better"


class Bars(View):
    """For a terminal: a bar per stage, and the current state of the job."""

    def __init__(self, job: Job) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console(stderr=True),
            transient=False,
        )
        self._tasks: dict[str, TaskID] = {
            stage: self._bars.add_task(f"{stage:<10}", total=1.0, detail="") for stage in stages(job)
        }
        self._whole = self._bars.add_task(f"{'job':<10}", total=1.0, detail="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, job: Job) -> None:
        """See View."""
        done = {row.stage: row for row in job.rows}
        for stage, task in self._tasks.items():
            if stage in done:
                _, parameters, weight, latency, validated, tested, _ = render.cells(done[stage], task=job.task)
                score = tested if done[stage].validation is None else validated
                self._bars.update(task, completed=1.0, detail=f"{parameters} · {weight} · {latency} · {score}")
            elif job.progress and job.progress.stage == stage and job.state == "running":
                found = job.progress
                loss = f" · loss {found.loss:.4f}" if found.loss is not None else ""
                score = f" · {validation(found.score)}" if found.score is not None else ""
                self._bars.update(
                    task,
                    completed=found.step / found.total if found.total else 0.0,
                    detail=one_line(f"{found.part} {found.phase} {found.step}/{found.total}{loss}{score}").lstrip(),
                )
        whole = 1.0 if job.state == "succeeded" else job.progress.fraction if job.progress else 0.0
        self._bars.update(self._whole, completed=whole, detail=one_line(headline(job)))

    def tell(self, line: str) -> None:
        """See View."""
        self._bars.console.print(Text(one_line(line)))


def view(job: Job) -> View:
    """Return the view for this output."""
    if as_json():
        return View()
    return Bars(job) if console(stderr=True).is_terminal else Lines()


def wait(lathe: Lathe, job_id: str, *, timeout: float | None = None) -> Job:
    """Show the job until it has ended, and return it. Raises WaitedTooLong."""
    changes = lathe.watch(job_id, timeout=timeout)
    job = next(changes)
    with view(job) as shown:
        shown.show(job)
        for job in changes:
            shown.show(job)
    return job


async def _live(peer: Lathe, job_id: str, seconds: float | None, line: Callable[[Event], str]) -> Job:
    async with AsyncLathe(peer.url, peer.key) as lathe:
        changes = lathe.watch(job_id, timeout=seconds)
        job = await anext(changes)
        past = [event async for event in lathe.events(job_id) if event.type not in IN_BARS]
        with view(job) as shown:

            async def tell() -> None:
                for event in past[-BEFORE:]:
                    shown.tell(line(event))
                async for event in lathe.follow(job_id, after=past[-1].seq if past else 0):
                    if event.type not in IN_BARS:
                        shown.tell(line(event))

            async def show() -> Job:
                found = job
                shown.show(found)
                async for found in changes:
                    shown.show(found)
                return found

            found, _ = await asyncio.gather(show(), tell())
        return found


def live(lathe: Lathe, job_id: str, *, timeout: float | None, line: Callable[[Event], str]) -> Job:
    """As wait, and print each event as it happens, formatted by `line`. Raises WaitedTooLong."""
    return asyncio.run(_live(lathe, job_id, timeout, line))
