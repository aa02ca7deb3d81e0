"""When a waiting job will be taken, and by whom: the queue played through as workers would claim from it."""

import heapq
from collections import Counter
from dataclasses import dataclass

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
    if job.state != QUEUED:
        return None
    waiting = session.execute(
        select(Job.id, Job.team_id, Job.priority)
        .where(Job.state == QUEUED, Job.cancel_requested_at.is_(None))
        .order_by(Job.priority.desc(), Job.id)
        .limit(LOOKED_AT)
    ).all()
    running = dict(session.execute(select(Job.team_id, func.count()).where(Job.state == RUNNING).group_by(Job.team_id)).all())
    order = _order([(row.id, row.team_id, row.priority) for row in waiting], Counter(running))
    memories = _memories(session)
    too_large = job.memory_bytes is not None and bool(memories) and job.memory_bytes > max(memories)
    if job.id not in order:
        ahead = select(func.count()).select_from(Job).where(Job.state == QUEUED, Job.cancel_requested_at.is_(None))
        before = ahead.where((Job.priority > job.priority) | ((Job.priority == job.priority) & (Job.id < job.id)))
        return Place((session.scalar(before) or 0) + 1, None, "memory" if too_large else None)
    position = order.index(job.id)
    lacks = "memory" if too_large else None if memories else "worker"
    start = None if lacks else _start(position, len(memories), _left(session), _usual(session))
    return Place(position + 1, start, lacks)


def _order(waiting: list[tuple[str, str, int]], running: Counter[str]) -> list[str]:
    """Play the claims through: highest priority, then the team with fewest at work, then age.

    Ended jobs free their team's share again, which is not foreseen here: the order of teams is the first guess.
    """
    left, order = list(waiting), []
    while left:
        top = left[0][2]
        chosen = min((entry for entry in left if entry[2] == top), key=lambda entry: (running[entry[1]], entry[0]))
        left.remove(chosen)
        running[chosen[1]] += 1
        order.append(chosen[0])
    return order


def _memories(session: Session) -> list[int]:
    """Memory of each living worker that takes jobs."""
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


def _start(position: int, workers: int, left: list[float], usual: float | None) -> float | None:
    """Give each job before this one to the worker that is free first; return when this one's turn comes."""
    free = sorted(left)[-workers:] + [0.0] * max(0, workers - len(left))
    heapq.heapify(free)
    for _ in range(position):
        if usual is None:
            return None
        heapq.heappush(free, heapq.heappop(free) + usual)
    return free[0]
