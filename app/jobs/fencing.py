"""The conditional UPDATE behind every job transition, and the fence that a worker's writes carry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.store.models import RUNNING, Event, EventType, Job
from app.store.quotas import worker_seconds

NewEvents = Sequence[tuple[EventType, dict[str, Any]]]


class StaleFence(Exception):
    """The job was given to another worker, or has ended: the caller must stop and change nothing."""


@dataclass(frozen=True)
class Claim:
    """What a worker holds: the job as claimed, and the fence that its writes must carry."""

    job: Job
    fence: int


def update_job(
    session: Session,
    job_id: str,
    *conditions: ColumnElement[bool],
    events: NewEvents = (),
    origin: str | None = None,
    **values: Any,
) -> Job | None:
    """Update a job if all conditions hold, and add its events; return None if they do not.

    A state in `values` ends the attempt, if one runs: its seconds are added to those of the job.
    `origin` identifies a write that may be repeated, with one event: see `was_written`.
    """
    if "state" in values:
        values["worker_seconds"] = worker_seconds()
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
    """Return the conditions that the holder of this fence still has the job."""
    return Job.state == RUNNING, Job.fence == fence


def update_fenced(session: Session, claim: Claim, *, events: NewEvents = (), **values: Any) -> Job:
    """Update a job that its holder still has. Raises StaleFence."""
    job = update_job(session, claim.job.id, *held_under(claim.fence), events=events, **values)
    if job is None:
        raise StaleFence(claim.job.id)
    return job


def was_written(session: Session, claim: Claim, origin: str) -> bool:
    """Return whether a write was already made: if the reply to its COMMIT was lost, the caller cannot know and repeats it.

    The row is locked first, so that a first attempt that still runs on the server ends before the check.
    """
    session.execute(select(Job.id).where(Job.id == claim.job.id).with_for_update())
    return session.scalar(select(Event.seq).where(Event.job_id == claim.job.id, Event.origin == origin)) is not None
