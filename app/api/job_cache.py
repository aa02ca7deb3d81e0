"""Cache of polled jobs: serialized once, and sent again while the version is the same.

Every change of a job increases its version (fencing.py), so a poll without news costs one small SELECT. A waiting job is not
cached: its queue position changes without its version.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy import select

from app.api.job_list import show_jobs
from app.core.errors import NotFound
from app.jobs import jobs
from app.store.db import reading
from app.store.models import QUEUED, TERMINAL, Job

MAX_CACHED = 128
"""Cached answers per process; each is some ten kilobytes."""


@dataclass(frozen=True)
class CachedJob:
    """The serialized job, and what a waiting request needs to know of it."""

    version: int
    over: bool
    body: bytes


_kept: OrderedDict[tuple[str, int, str], CachedJob] = OrderedDict()
_lock = threading.Lock()


def read_job(team: str, job_id: str) -> CachedJob:
    """Return one of the team's jobs as JSON. Raises NotFound."""
    with reading() as session:
        mine = (Job.id == job_id, Job.team_id == team, Job.deleted_at.is_(None))
        now = session.execute(select(Job.version, Job.state).where(*mine)).one_or_none()
        if now is None:
            raise NotFound(f"no job {job_id}")
        place = (job_id, now.version, now.state)
        with _lock:
            if (known := _kept.get(place)) is not None:
                _kept.move_to_end(place)
                return known
        job = show_jobs(session, [jobs.get(session, team, job_id)])[0]
    found = CachedJob(job.version, job.state in TERMINAL, job.model_dump_json().encode())
    if job.state != QUEUED:
        with _lock:
            _kept[job_id, job.version, job.state] = found
            if len(_kept) > MAX_CACHED:
                _kept.popitem(last=False)
    return found
