"""One conditional UPDATE, and the fence that a worker's writes carry: what jobs.py makes every transition of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.store.models import RUNNING, Event, Job


class StaleFence(Exception):
    """The job was given to someone else, or is over: the caller must stop and leave everything as it is."""


@dataclass(frozen=True)
class Claim:
    """What a worker holds: the job as it was claimed, and the fence that its writes must carry."""

    job: Job
    fence: int


def update_job(
    session: Session,
    job_id: str,
    *conditions: ColumnElement[bool],
    events: Sequence[tuple[str, dict[str, Any]]] = (),
    origin: str | None = None,
    **values: Any,
) -> Job | None:
    """Change a job where all conditions hold, and add its events; None where they do not.

    `origin` names a write that may come twice, with one event: see `written`.
    """
    job = session.scalar(
        update(Job)
        .where(Job.id == job_id, *conditions)
        .values(version=Job.version + 1, event_seq=Job.event_seq + len(events), **values)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    if job is not None:
        first = job.event_seq - len(events) + 1
        session.add_all(
            Event(job_id=job_id, seq=first + i, type=kind, data=data, origin=origin) for i, (kind, data) in enumerate(events)
        )
        session.flush()
    return job


def held_under(fence: int) -> tuple[ColumnElement[bool], ...]:
    """Return what is true of a job as long as nobody took it from the holder of this fence."""
    return Job.state == RUNNING, Job.fence == fence


def update_fenced(session: Session, claim: Claim, *, events: Sequence[tuple[str, dict[str, Any]]] = (), **values: Any) -> Job:
    """Change a job that its holder still has. Raises StaleFence."""
    job = update_job(session, claim.job.id, *held_under(claim.fence), events=events, **values)
    if job is None:
        raise StaleFence(claim.job.id)
    return job


def was_written(session: Session, claim: Claim, origin: str) -> bool:
    """Say whether a write was made already: where the reply to its COMMIT was lost, nobody knows, and it comes again.

    The row is locked first, so that a first try that is still under way on the server ends before we look.
    """
    session.execute(select(Job.id).where(Job.id == claim.job.id).with_for_update())
    return session.scalar(select(Event.seq).where(Event.job_id == claim.job.id, Event.origin == origin)) is not None
