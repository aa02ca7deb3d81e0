"""Queue positions and expected starts of waiting jobs, by the order in which fair_share.py lets claims take them."""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.jobs import fair_share
from app.jobs.capacity import find_lack, live_capacities
from app.store.models import QUEUED, RUNNING, Job

LOOKED_AT = 500
"""Positions whose start is estimated; those behind them are only counted."""
COMPARED = 20
"""Jobs per team that are compared by age if shares are equal; beyond that, each other team may shift a position by one."""
REMEMBERED = 20
"""Finished jobs whose mean duration stands for one that has not started."""


@dataclass(frozen=True)
class QueuePosition:
    """A waiting job's position. `start_seconds` is unknown if no worker is alive or no job ever finished."""

    position: int
    start_seconds: float | None
    waits_for: str | None


def find_position(session: Session, job: Job) -> QueuePosition | None:
    """Return a job's position, its expected start and what it lacks; None if it does not wait."""
    return find_positions(session, [job]).get(job.id)


def find_positions(session: Session, jobs: Sequence[Job]) -> dict[str, QueuePosition]:
    """Return the positions of several jobs, by id, from one read of the queue; jobs that do not wait are left out."""
    jobs = [job for job in jobs if job.state == QUEUED]
    if not jobs:
        return {}
    waiting = fair_share.waiting_teams(session)
    ahead = _count_ahead(session, jobs, waiting)
    live, left, usual = live_capacities(session), _remaining_seconds(session), _mean_seconds(session)
    starts = _schedule(min(LOOKED_AT, max(ahead.values()) + 1), sum(one is not None for one in live), left, usual)
    full = {line.team for line in waiting.values() if line.full}
    found = {}
    for job in jobs:
        lacks = find_lack(job, live) or ("quota" if job.team_id in full else None)
        position = ahead[job.id]
        found[job.id] = QueuePosition(position + 1, None if lacks or position >= len(starts) else starts[position], lacks)
    return found


def _count_ahead(session: Session, jobs: Sequence[Job], waiting: dict[str, fair_share.TeamQueue]) -> dict[str, int]:
    """Return how many jobs precede each: of its own team by rank, and of every other team by share.

    A job that ends lowers its team's share, which is not predicted here: the order of teams is a first estimate.
    """
    teams: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        teams[job.team_id].append(job.id)
    ranks = {job: rank for team, ids in teams.items() for job, rank in fair_share.ranks(session, team, ids).items()}
    ahead = {job.id: ranks.get(job.id, 0) for job in jobs}
    equal: list[tuple[str, str, int]] = []  # (job, other team, that team's job number with the same share)
    for job in jobs:
        own = waiting.get(job.team_id)
        if own is None:  # it was claimed a moment ago
            continue
        share = own.share(ahead[job.id])
        for other in waiting.values():
            if other.team == own.team or other.full:
                continue
            surely, ties = other.before(share)
            ahead[job.id] += surely
            if ties and other.recent != own.recent:
                ahead[job.id] += other.recent < own.recent
            elif ties:
                equal.append((job.id, other.team, surely))
    wanted: dict[int, set[str]] = defaultdict(set)
    for _, team, turn in equal:
        if turn < COMPARED:
            wanted[turn].add(team)
    ids = fair_share.nth_jobs(session, wanted)
    for job_id, team, turn in equal:
        ahead[job_id] += ids.get((team, turn), "~") < job_id
    return ahead


def _remaining_seconds(session: Session) -> list[float]:
    """Remaining seconds of each running job, as far as it knows."""
    rows = session.scalars(select(Job.progress).where(Job.state == RUNNING)).all()
    return [float((progress or {}).get("eta_seconds") or 0.0) for progress in rows]


def _mean_seconds(session: Session) -> float | None:
    """Mean duration in seconds of the last successful jobs."""
    ended = select(Job.started_at, Job.finished_at).where(Job.state == "succeeded").order_by(Job.finished_at.desc())
    times = [(row.finished_at - row.started_at).total_seconds() for row in session.execute(ended.limit(REMEMBERED))]
    return sum(times) / len(times) if times else None


def _schedule(number: int, workers: int, left: list[float], usual: float | None) -> list[float | None]:
    """Assign waiting jobs in order to the worker that is free first; return the start of each."""
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
