"""lathe families, workers, queue, usage, quotas: what the service can do, and who does it."""

from itertools import islice
from typing import Annotated, Any

import typer

from client.commands import connect
from client.terminal import render
from client.terminal.output import AsJson, emit, table
from client.terminal.watching import headline
from client.types import Quota, Worker

MOST = 20
"""Jobs of one's own whose place is told."""


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def families(json: AsJson = False) -> None:  # noqa: ARG001
    """List the model families that can be taken apart, and their limits."""
    with connect() as lathe:
        found = lathe.families()
    lines = []
    for item in found:
        lines.append(str(item.get("name")))
        lines += [f"  {name.replace('_', ' ')}: {_words(value)}" for name, value in item.items() if name != "name"]
    emit(found, *lines)


def _device(worker: Worker) -> str:
    facts = worker.facts
    memory = f", {render.size(int(facts['memory_bytes']))}" if facts.get("memory_bytes") else ""
    return f"{', '.join(facts.get('devices') or ['–'])}, {facts.get('cores', '?')} cores{memory}"


def workers(json: AsJson = False) -> None:  # noqa: ARG001
    """List the workers: what they run on, how they confine what they run, their job, and when they were last heard of."""
    with connect() as lathe:
        found = lathe.workers()
    rows = [
        (
            worker.id,
            worker.kind,
            worker.host,
            "draining" if worker.drain else "alive" if worker.alive else "lost",
            None if worker.silent_seconds is None else f"{render.duration(worker.silent_seconds)} ago",
            _device(worker),
            worker.facts.get("confinement"),
            worker.job or ("another team's" if worker.busy else None),
        )
        for worker in found
    ]
    columns = ("id", "kind", "host", "state", "heard of", "machine", "confined by", "job")
    emit(found, table(columns, rows, empty="No workers. `lathe up` starts some."))


def usage(
    days: Annotated[int, typer.Option(min=1, max=366, help="The last so many days.")] = 30,
    json: AsJson = False,  # noqa: ARG001
) -> None:
    """Say what your team used, and all others together: jobs, minutes of workers, bytes that are kept."""
    with connect() as lathe:
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


def quotas(json: AsJson = False) -> None:  # noqa: ARG001
    """Say what your team may take of the service, how much of it is taken, and what frees it again."""
    with connect() as lathe:
        found = lathe.quotas()
    rows = [
        (one.name.replace("_", " "), _amount(one.name, one.used), _amount(one.name, one.limit), _frees(one))
        for one in found.items
    ]
    emit(found, table(("what", "used", "limit", "frees"), rows, empty="No limits."), f"The team's weight is {found.weight:g}.")


def queue(json: AsJson = False) -> None:  # noqa: ARG001
    """Say how many jobs wait and run, and when yours begin."""
    with connect() as lathe:
        found = lathe.queue()
        # A list does not tell a job's place; each is asked for, the first few being what anybody wants to know.
        mine = [lathe.job(job.id) for job in islice(lathe.jobs(state=("queued", "running")), MOST)]
    rows = [(job.id, job.name, headline(job)) for job in sorted(mine, key=lambda job: job.queue_position or 0)]
    shown = table(("id", "name", "now"), rows, empty="None of them is yours.")
    beside = f"{found.checks} checks of uploads, {found.tries} questions"
    emit(
        {**found.model_dump(), "jobs": mine}, f"{found.queued} waiting, {found.running} running, of all teams; {beside}.", shown
    )
