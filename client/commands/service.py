"""lathe families, workers, queue: what the service can do, and who does it."""

from datetime import UTC, datetime
from itertools import islice
from typing import Any

from client import render
from client.commands import connect
from client.output import AsJson, emit, table
from client.types import Worker
from client.watching import headline

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
    return f"{facts.get('device') or facts.get('machine', '–')}, {facts.get('cores', '?')} cores{memory}"


def workers(json: AsJson = False) -> None:  # noqa: ARG001
    """List the workers: what they run on, how they confine what they run, their job, and when they were last heard of."""
    with connect() as lathe:
        found = lathe.workers()
    now = datetime.now(UTC)
    rows = [
        (
            worker.id,
            worker.kind,
            worker.host,
            "draining" if worker.drain else "alive" if worker.alive else "lost",
            f"{render.duration((now - aware(worker.seen_at)).total_seconds())} ago" if worker.seen_at else None,
            _device(worker),
            worker.facts.get("confinement"),
            worker.job,
        )
        for worker in found
    ]
    columns = ("id", "kind", "host", "state", "heard of", "machine", "confined by", "job")
    emit(found, table(columns, rows, empty="No workers. `lathe up` starts some."))


def aware(moment: datetime) -> datetime:
    """Give a moment without a zone the one that it is in: the service speaks UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def queue(json: AsJson = False) -> None:  # noqa: ARG001
    """Say how many jobs wait and run, and when yours begin."""
    with connect() as lathe:
        found = lathe.queue()
        # A list does not tell a job's place; each is asked for, the first few being what anybody wants to know.
        mine = [lathe.job(job.id) for job in islice(lathe.jobs(state=("queued", "running")), MOST)]
    rows = [(job.id, job.name, headline(job)) for job in sorted(mine, key=lambda job: job.queue_position or 0)]
    shown = table(("id", "name", "now"), rows, empty="None of them is yours.")
    emit({**found.model_dump(), "jobs": mine}, f"{found.queued} waiting, {found.running} running, of all teams.", shown)
