"""Every transition of a job, as plain functions that take a session. The only writer of job state.

    queued → running → succeeded | failed | cancelled        running → queued when its worker is lost or drains

Each transition is one conditional UPDATE: what it did not change, someone else owns. A worker's writes carry the fence
that it got with its claim; a stale fence writes nothing. Times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session, defer, joinedload

from app.core import logs, traces
from app.core.errors import NotFound, WrongState
from app.core.failures import describe_failure
from app.jobs import fair_share
from app.jobs.fencing import Claim as Claim
from app.jobs.fencing import StaleFence as StaleFence
from app.jobs.fencing import held_under, update_fenced, update_job, was_written
from app.jobs.stage_results import add_artifacts
from app.store import quotas, resources
from app.store.broker import JOBS, wake_after_commit
from app.store.clock import now
from app.store.models import (
    QUEUED,
    RUNNING,
    TERMINAL,
    Artifact,
    Checkpoint,
    Dataset,
    File,
    Job,
    JobDataset,
    JobModel,
    Model,
    Prediction,
    ShareLink,
    Worker,
)
from compression.schema.report.report import Artifact as ArtifactFacts


@dataclass(frozen=True)
class Heartbeat:
    """What a heartbeat brings back."""

    cancel: bool
    drain: bool
    overdue: bool


# The caller's side.


def submit(session: Session, job: Job) -> Job:
    """Accept a job: its row is the promise. Workers are woken once it is committed. Raises QuotaExceeded."""
    quotas.admit_job(session, job.team_id)
    job.request_id, job.traceparent = logs.request_id(), traces.current_traceparent()
    if job.deadline_seconds is not None:
        job.deadline_at = now(job.deadline_seconds)
    session.add(job)
    session.flush()
    stored = update_job(session, job.id, events=[("queued", {})])
    wake_after_commit(session, JOBS)
    return stored or job


def get(session: Session, team: str, job_id: str) -> Job:
    """Find one of the team's jobs. Raises NotFound."""
    # What everybody polls, so in few statements; the report comes when it is asked for.
    whole = (joinedload(Job.parts), joinedload(Job.others), defer(Job.report))
    query = select(Job).options(*whole).where(Job.id == job_id, Job.team_id == team, Job.deleted_at.is_(None))
    job = session.scalars(query).unique().one_or_none()
    if job is None:
        raise NotFound(f"no job {job_id}")
    return job


def cancel(session: Session, team: str, job_id: str) -> Job:
    """End a waiting job at once; ask the worker of a running one. Raises WrongState for one that ended otherwise."""
    # Locked, or a job that is given back between the two looks would be in neither state, and go on.
    session.execute(select(Job.id).where(Job.id == job_id, Job.team_id == team).with_for_update())
    get(session, team, job_id)
    gone = update_job(
        session,
        job_id,
        Job.state == QUEUED,
        events=[("cancelled", {})],
        state="cancelled",
        cancel_requested_at=now(),
        finished_at=now(),
    )
    asked = gone or update_job(
        session,
        job_id,
        Job.state == RUNNING,
        Job.cancel_requested_at.is_(None),
        events=[("cancel_requested", {})],
        cancel_requested_at=now(),
    )
    job = asked or get(session, team, job_id)
    if job.state in ("succeeded", "failed"):
        raise WrongState(f"{job_id} has {job.state} already")
    return job


CLAIM_TRIES = 50
"""Looks of one claim at teams whose first jobs others are taking: each that finds nothing is a job that somebody else got."""
LONGEST_WAIT = 300.0
"""Seconds between two attempts, however often a job was lost."""
ASKED = (
    *("team_id", "name", "labels", "task", "model_id", "dataset_id", "recipe", "evaluate", "targets", "priority"),
    *("deadline_seconds", "memory_bytes", "disk_bytes"),
)
"""What makes a request, and is the same when it is tried again."""


def retry(session: Session, team: str, job_id: str, key_id: str | None = None) -> Job:
    """Submit the same request again as a new job, sent with this key.

    Raises WrongState while the old one is not over, NotFound where one of its models or datasets was deleted.
    """
    old = get(session, team, job_id)
    if old.state not in TERMINAL:
        raise WrongState(f"{job_id} is {old.state}; only a job that is over can be tried again")
    for model in (old.model_id, *(other.model_id for other in old.others)):
        resources.get(session, Model, team, model, hold="share")
    for dataset in old.datasets:
        resources.get(session, Dataset, team, dataset, hold="share")
    parts = [JobDataset(position=part.position, dataset_id=part.dataset_id, name=part.name) for part in old.parts]
    others = [JobModel(position=other.position, model_id=other.model_id, role=other.role) for other in old.others]
    asked = {field: getattr(old, field) for field in ASKED}
    return submit(session, Job(**asked, parts=parts, others=others, retry_of=old.id, key_id=key_id))


def delete_job(session: Session, team: str, job_id: str) -> None:
    """Hide a job that is over; the keeper frees its bytes. Its outcome and metrics stay. Raises WrongState."""
    job = get(session, team, job_id)
    if job.state not in TERMINAL:
        raise WrongState(f"{job_id} is {job.state}", remedy="Cancel the job first.")
    artifacts = select(Artifact.id).where(Artifact.job_id == job_id)
    session.execute(delete(File).where(File.artifact_id.in_(artifacts)))
    session.execute(delete(Artifact).where(Artifact.job_id == job_id))
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id))
    for kind in (Prediction, ShareLink):
        session.execute(delete(kind).where(kind.job_id == job_id))
    update_job(session, job_id, deleted_at=now())


# The worker's side.


def claim(session: Session, worker_id: str, lease_seconds: float, memory_bytes: int | None = None) -> Claim | None:
    """Take the next job: of the team whose share is due, its first by priority, then age; None where nothing can run now.

    A job whose forecast is above `memory_bytes`, what this worker lets one take, waits for a larger one.
    """
    values = {
        "state": RUNNING,
        "attempt": Job.attempt + 1,
        "fence": Job.fence + 1,
        "worker_id": worker_id,
        "lease_until": now(lease_seconds),
        "started_at": func.coalesce(Job.started_at, now()),
        "version": Job.version + 1,
        "progress": None,
    }
    job = None
    for again in range(CLAIM_TRIES):
        # Of each team one job is looked at. Where others are taking all of those, who finds nothing waits for them and looks
        # again, at what is next then.
        chosen = fair_share.next_job(memory_bytes).with_for_update(skip_locked=not again, of=fair_share.ChosenJob)
        job = session.scalar(
            update(Job)
            .where(Job.id == chosen.scalar_subquery(), Job.state == QUEUED)
            .values(values)
            .returning(Job)
            .execution_options(synchronize_session=False, populate_existing=True)
        )
        if job is not None or not has_waiting_job(session, memory_bytes):
            break
    if job is None:
        return None
    claimed = Claim(job, job.fence)
    update_fenced(session, claimed, events=[("claimed", {"worker": worker_id, "attempt": job.attempt})])
    return claimed


def heartbeat(session: Session, claim: Claim, lease_seconds: float, **changes: Any) -> Heartbeat:
    """Renew the lease, carry progress out and cancel and drain in. Raises StaleFence."""
    job = update_fenced(session, claim, lease_until=now(lease_seconds), **changes)
    drain = session.scalar(update(Worker).where(Worker.id == job.worker_id).values(seen_at=now()).returning(Worker.drain))
    overdue = job.deadline_at is not None and session.scalar(select(Job.deadline_at <= now()).where(Job.id == job.id))
    return Heartbeat(cancel=job.cancel_requested_at is not None, drain=bool(drain), overdue=bool(overdue))


def record_event(
    session: Session, claim: Claim, kind: str, data: dict[str, Any], *, origin: str | None = None, **changes: Any
) -> None:
    """Append an event; one of the same origin is there already where this is tried again. Raises StaleFence."""
    if origin is None or not was_written(session, claim, origin):
        update_fenced(session, claim, events=[(kind, data)], origin=origin, **changes)


def finish(
    session: Session, claim: Claim, report: dict[str, Any], artifacts: Sequence[tuple[ArtifactFacts, dict[str, str]]]
) -> None:
    """End well: report, last artifacts and outcome in one fenced transaction; again is fine. Raises StaleFence."""
    mine = select(Job.state, Job.fence, Job.progress).where(Job.id == claim.job.id)
    found = session.execute(mine.with_for_update()).one()
    if (found.state, found.fence) == ("succeeded", claim.fence):
        return  # the reply to the first COMMIT was lost
    add_artifacts(session, claim, artifacts)
    session.flush()
    # What was told last was of the time before the last step ended.
    progress = {**found.progress, "fraction": 1.0, "eta_seconds": 0.0} if found.progress else None
    ended = {"state": "succeeded", "report": report, "progress": progress, "finished_at": now(), "lease_until": None}
    update_fenced(session, claim, events=[("succeeded", {})], **ended)


def fail(session: Session, claim: Claim, error: dict[str, Any]) -> None:
    """End with something that the sender must mend; it is not tried again. Raises StaleFence."""
    ended = _ended(session.scalar(select(Job.progress).where(Job.id == claim.job.id)))
    update_fenced(session, claim, events=[("failed", error)], state="failed", error=error, **ended)


def mark_cancelled(session: Session, claim: Claim) -> None:
    """Say that the work has stopped, as was asked. Raises StaleFence."""
    ended = _ended(session.scalar(select(Job.progress).where(Job.id == claim.job.id)))
    update_fenced(session, claim, events=[("cancelled", {})], state="cancelled", **ended)


def _ended(progress: dict[str, Any] | None) -> dict[str, Any]:
    """Return what changes in a job that ends before its work does: it stays where it was, and nothing is left to wait for."""
    stopped = {**progress, "eta_seconds": None} if progress else None
    return {"progress": stopped, "finished_at": now(), "lease_until": None}


def release(session: Session, claim: Claim) -> None:
    """Give a job back because its worker drains: nobody's fault, no failure charged. Raises StaleFence.

    One whose cancel came meanwhile ends: in the queue nobody would take it, and nobody end it.
    """
    asked = select(Job.cancel_requested_at).where(Job.id == claim.job.id).with_for_update()
    if session.scalar(asked) is not None:
        mark_cancelled(session, claim)
        return
    update_fenced(
        session,
        claim,
        events=[("released", {"worker": claim.job.worker_id})],
        state=QUEUED,
        worker_id=None,
        lease_until=None,
        progress=None,
    )
    wake_after_commit(session, JOBS)


def retry_or_fail(
    session: Session,
    claim: Claim,
    error: dict[str, Any],
    *,
    max_failures: int,
    backoff_seconds: float,
    split_batches: int | None = None,
) -> None:
    """Note a crash that is not the sender's fault: wait and try again, up to a cap. Raises StaleFence.

    `split_batches`: in how many parts each batch goes through the model from now on.
    """
    changes = {} if split_batches is None else {"split_batches": split_batches}
    if not _set_back(session, claim.job.id, claim.fence, error, max_failures, backoff_seconds, **changes):
        raise StaleFence(claim.job.id)


def _set_back(
    session: Session,
    job_id: str,
    fence: int,
    error: dict[str, Any],
    cap: int,
    backoff: float,
    *more: ColumnElement[bool],
    **changes: Any,
) -> bool:
    # Locked: a cancel between this look and the change would leave a job in the queue that nobody takes and nobody ends.
    job = session.scalar(select(Job).where(Job.id == job_id, *held_under(fence), *more).with_for_update())
    if job is None:
        return False
    failures = job.failures + 1
    common: dict[str, Any] = {"failures": failures, "lease_until": None, **changes}
    values: dict[str, Any]
    happened: list[tuple[str, dict[str, Any]]]
    if job.cancel_requested_at is not None:
        values = {"state": "cancelled", **common, **_ended(job.progress)}
        happened = [("cancelled", {})]
    elif failures >= cap:
        values = {"state": "failed", "error": error, **common, **_ended(job.progress)}
        happened = [("failed", error)]
    else:
        wait = min(backoff * 2 ** (failures - 1), LONGEST_WAIT)
        values = {"state": QUEUED, "worker_id": None, "not_before": now(wait), "progress": None, **common}
        happened = [("requeued", {**error, "failures": failures, "wait_seconds": wait})]
        wake_after_commit(session, JOBS)
    return update_job(session, job_id, *held_under(fence), *more, events=happened, **values) is not None


# The keeper's side.


def requeue_expired(session: Session, *, max_failures: int, backoff_seconds: float) -> list[str]:
    """Take jobs from workers whose lease has run out; return their ids."""
    dead = select(Job.id, Job.fence).where(Job.state == RUNNING, Job.lease_until < now())
    dead = dead.order_by(Job.team_id).with_for_update(skip_locked=True)  # each is counted in its team's row: all in one order
    return [
        job_id
        for job_id, fence in session.execute(dead).all()
        if _set_back(
            session, job_id, fence, describe_failure("worker_lost"), max_failures, backoff_seconds, Job.lease_until < now()
        )
    ]


def requeue_orphans(session: Session, worker_id: str, *, max_failures: int, backoff_seconds: float) -> list[str]:
    """Take back what a worker holds that is about to claim, and so holds nothing; return the ids.

    Its process died and was started anew, or the reply to a claim's COMMIT was lost. No lease need run out for that.
    """
    mine = select(Job.id, Job.fence).where(Job.state == RUNNING, Job.worker_id == worker_id)
    mine = mine.order_by(Job.team_id).with_for_update(skip_locked=True)
    return [
        job_id
        for job_id, fence in session.execute(mine).all()
        if _set_back(session, job_id, fence, describe_failure("worker_lost"), max_failures, backoff_seconds)
    ]


def fail_overdue(session: Session) -> list[str]:
    """Fail waiting jobs whose deadline has passed; return their ids. A running one's worker does it itself."""
    late = select(Job.id).where(Job.state == QUEUED, Job.deadline_at <= now())
    late = late.order_by(Job.team_id).with_for_update(skip_locked=True)
    error = describe_failure("deadline_exceeded")
    values: dict[str, Any] = {"state": "failed", "error": error, "finished_at": now()}
    return [
        job_id
        for job_id in session.scalars(late).all()
        if update_job(session, job_id, Job.state == QUEUED, Job.deadline_at <= now(), events=[("failed", error)], **values)
    ]


def has_waiting_job(session: Session, memory_bytes: int | None = None) -> bool:
    """Say whether any job could be claimed right now, by a worker of so much memory."""
    return session.scalar(fair_share.next_job(memory_bytes)) is not None
