"""When a waiting job will be taken, and by whom: the queue played through as workers would claim from it."""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.clock import now
from app.models import QUEUED, RUNNING, Job, Worker
from app.queue import JOBS

ALIVE_SECONDS = 60.0
LOOKED_AT = 500
"""Waiting jobs that are played through; those behind them are only counted."""
REMEMBERED = 20
"""Finished jobs whose mean time stands for one that has not begun."""


@dataclass(frozen=True)
class Place:
    """A waiting job's place. `start_seconds` is unknown while no worker lives or none ever finished a job."""

    position: int
    start_seconds: float | None
    waits_for: str | None


def place(session: Session, job: Job) -> Place | None:
    """Say how many go first, about when this one starts, and what it lacks; None for a job that does not wait."""
    return places(session, [job]).get(job.id)


def places(session: Session, jobs: Sequence[Job]) -> dict[str, Place]:
    """Say the same of several jobs, by id, from one look at the queue; those that do not wait are left out."""
    jobs = [job for job in jobs if job.state == QUEUED]
    if not jobs:
        return {}
    waiting = session.execute(
        select(Job.id, Job.team_id, Job.priority)
        .where(Job.state == QUEUED, Job.cancel_requested_at.is_(None))
        .order_by(Job.priority.desc(), Job.id)
        .limit(LOOKED_AT)
    ).all()
    running = dict(session.execute(select(Job.team_id, func.count()).where(Job.state == RUNNING).group_by(Job.team_id)).all())
    order = {
        job: number
        for number, job in enumerate(_order([(row.id, row.team_id, row.priority) for row in waiting], Counter(running)))
    }
    behind = _counted(session, [job.id for job in jobs if job.id not in order])
    memories, left, usual = _memories(session), _left(session), _usual(session)
    starts = _starts(len(waiting), len(memories), left, usual)
    found = {}
    for job in jobs:
        too_large = job.memory_bytes is not None and bool(memories) and job.memory_bytes > max(memories)
        lacks = "memory" if too_large else None if memories else "worker"
        if job.id in order:
            found[job.id] = Place(order[job.id] + 1, None if lacks else starts[order[job.id]], lacks)
        else:
            found[job.id] = Place(behind.get(job.id, len(waiting) + 1), None, "memory" if too_large else None)
    return found


def _counted(session: Session, ids: list[str]) -> dict[str, int]:
    """Return the places of jobs that are too far behind to be played through."""
    if not ids:
        return {}
    number = func.row_number().over(order_by=(Job.priority.desc(), Job.id)).label("number")
    line = select(Job.id, number).where(Job.state == QUEUED, Job.cancel_requested_at.is_(None)).subquery()
    return dict(session.execute(select(line.c.id, line.c.number).where(line.c.id.in_(ids))).all())


def _order(waiting: list[tuple[str, str, int]], running: Counter[str]) -> list[str]:
    """Play the claims through: highest priority, then the team with fewest at work, then age.

    Ended jobs free their team's share again, which is not foreseen here: the order of teams is the first guess.
    waiting: (job, team, priority), as they would go if there were one team.
    """
    order: list[str] = []
    for _, group in groupby(waiting, key=lambda entry: entry[2]):
        lines: dict[str, deque[str]] = defaultdict(deque)
        for job, team, _ in group:
            lines[team].append(job)
        heads = [(running[team], line[0], team) for team, line in lines.items()]
        heapq.heapify(heads)
        while heads:
            _, job, team = heapq.heappop(heads)
            order.append(job)
            running[team] += 1
            lines[team].popleft()
            if lines[team]:
                heapq.heappush(heads, (running[team], lines[team][0], team))
    return order


def _memories(session: Session) -> list[int]:
    """What a job may take of each living worker's memory, of those that take jobs."""
    alive = select(Worker.facts).where(Worker.kind == JOBS, Worker.drain.is_(False), Worker.seen_at > now(-ALIVE_SECONDS))
    return [int(facts.get("memory_bytes") or 2**62) for facts in session.scalars(alive)]


def _left(session: Session) -> list[float]:
    """Seconds that each running job will still take, as far as it knows."""
    rows = session.scalars(select(Job.progress).where(Job.state == RUNNING)).all()
    return [float((progress or {}).get("eta_seconds") or 0.0) for progress in rows]


def _usual(session: Session) -> float | None:
    """Mean seconds of the jobs that succeeded last."""
    ended = select(Job.started_at, Job.finished_at).where(Job.state == "succeeded").order_by(Job.finished_at.desc())
    times = [(row.finished_at - row.started_at).total_seconds() for row in session.execute(ended.limit(REMEMBERED))]
    return sum(times) / len(times) if times else None


def _starts(number: int, workers: int, left: list[float], usual: float | None) -> list[float | None]:
    """Give each waiting job in turn to the worker that is free first; return when each one's turn comes."""
    free = sorted(left)[-workers:] + [0.0] * max(0, workers - len(left)) if workers else []
    heapq.heapify(free)
    starts: list[float | None] = []
    for position in range(number):
        if not free or (usual is None and position):
            starts.append(None)
            continue
        starts.append(free[0])
        if usual is not None:
            heapq.heapreplace(free, free[0] + usual)
    return starts
