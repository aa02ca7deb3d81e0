"""lathe families, workers, queue, usage, quotas: what the service can do, and its load."""

from itertools import islice
from typing import Annotated, Any

import typer

from client.api import Lathe
from client.terminal import render
from client.terminal.job_view import headline
from client.terminal.output import emit, table
from client.types import Quota, Worker
from compression.schema.worker_device import read_device

MOST = 20
"""Jobs of the team whose place is shown."""


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def families(lathe: Lathe) -> None:
    """List the model families that can be pruned, and their limits."""
    found = lathe.families()
    lines = []
    for item in found:
        lines.append(str(item.get("name")))
        lines += [f"  {name.replace('_', ' ')}: {_words(value)}" for name, value in item.items() if name != "name"]
    emit(found, *lines)


def _device(worker: Worker) -> str:
    facts = worker.facts
    memory = f", {render.size(int(facts['memory_bytes']))}" if facts.get("memory_bytes") else ""
    device = read_device(facts)
    figures = f"; {device.summary()}" if device is not None and device.summary() else ""
    lost = f"; LOST: {device.lost}" if device is not None and device.lost else ""
    return f"{', '.join(facts.get('devices') or ['–'])}, {facts.get('cores', '?')} cores{memory}{figures}{lost}"


def _state(worker: Worker) -> str:
    if worker.drain or not worker.alive:
        return "draining" if worker.drain else "lost"
    if worker.rests_until is None:
        return "alive"
    reason = f": {worker.rest_reason}" if worker.rest_reason else ""
    return f"rests until {worker.rests_until:%H:%M:%S %Z}{reason}"


def workers(lathe: Lathe) -> None:
    """List the workers: their machine, how they confine engines, their job, and when they were last heard of."""
    found = lathe.workers()
    rows = [
        (
            worker.id,
            worker.kind,
            worker.host,
            _state(worker),
            None if worker.silent_seconds is None else f"{render.duration(worker.silent_seconds)} ago",
            _device(worker),
            worker.facts.get("confinement"),
            worker.job or ("another team's" if worker.busy else None),
        )
        for worker in found
    ]
    columns = ("id", "kind", "host", "state", "heard of", "machine", "confined by", "job")
    emit(found, table(columns, rows, empty="No workers. `lathe up` starts some."))


def usage(lathe: Lathe, days: Annotated[int, typer.Option(min=1, max=366, help="Days to include, up to now.")] = 30) -> None:
    """Show the usage of your team, and of all others together: jobs, worker minutes, stored bytes."""
    found = lathe.usage(days=days)
    rows = [
        (
            used.team,
            ", ".join(f"{state} {number}" for state, number in used.jobs.items()) or None,
            f"{used.worker_minutes:.1f} min",
            *(render.size(number) for number in (used.models_bytes, used.datasets_bytes, used.artifacts_bytes)),
        )
        for used in found.items
    ]
    columns = ("team", "jobs", "workers", "models", "datasets", "artifacts")
    emit(found, table(columns, rows, empty="Nothing yet."))


def _amount(name: str, number: float) -> str:
    if name.startswith("bytes"):
        return render.size(int(number))
    return f"{number:g} h" if name.endswith("hours") else f"{number:g}"


def _frees(one: Quota) -> str:
    return f"{one.frees} ({one.frees_at:%Y-%m-%d %H:%M} UTC)" if one.frees_at else one.frees


def quotas(lathe: Lathe) -> None:
    """Show your team's limits, how much of each is used, and what frees it."""
    found = lathe.quotas()
    rows = [
        (one.name.replace("_", " "), _amount(one.name, one.used), _amount(one.name, one.limit), _frees(one))
        for one in found.items
    ]
    emit(found, table(("what", "used", "limit", "frees"), rows, empty="No limits."), f"The team's weight is {found.weight:g}.")


def queue(lathe: Lathe) -> None:
    """Show how many jobs wait and run, and when yours start."""
    found = lathe.queue()
    # A list has no places, so the first few jobs are asked for one by one.
    mine = [lathe.job(job.id) for job in islice(lathe.jobs(state=("queued", "running")), MOST)]
    rows = [(job.id, job.name, headline(job)) for job in sorted(mine, key=lambda job: job.queue_position or 0)]
    shown = table(("id", "name", "now"), rows, empty="None of them is yours.")
    beside = f"{found.checks} checks of uploads, {found.tries} questions"
    emit(
        {**found.model_dump(), "jobs": mine}, f"{found.queued} waiting, {found.running} running, of all teams; {beside}.", shown
    )
