"""All transitions of a job, as plain functions that take a session. Only this package writes job state.

    queued → running → succeeded | failed | cancelled        running → queued when its worker is lost or drains

Each transition is one conditional UPDATE: if it changes nothing, another process owns the job. A worker's writes carry the
fence of its claim; a stale fence writes nothing. Times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session, defer, joinedload

from app.core import logs, traces
from app.core.errors import NotFound, WrongState
from app.core.failures import describe_failure
from app.jobs import fair_share, forecasts, own_profiles
from app.jobs.capacity import Capacity, wake_workers
from app.jobs.fencing import Claim as Claim, StaleFence as StaleFence, held_under, update_fenced, update_job, was_written
from app.jobs.stage_results import add_artifacts
from app.store import quotas, resources
from app.store.clock import now
from app.store.models import (
    QUEUED,
    RUNNING,
    TERMINAL,
    Artifact,
    Checkpoint,
    Dataset,
    EventType,
    File,
    Job,
    JobDataset,
    JobModel,
    Model,
    Prediction,
    Profile,
    ShareLink,
    Worker,
)
from compression.schema.recipe.recipe import check_removed
from compression.schema.report.report import Artifact as ArtifactFacts
from compression.schema.report.samples import split_samples, with_samples


@dataclass(frozen=True)
class Heartbeat:
    """What a heartbeat returns to the worker."""

    cancel: bool
    drain: bool
    overdue: bool


# For callers.


def submit(session: Session, job: Job) -> Job:
    """Accept a job: the row is the promise. Workers are woken after the commit. Raises QuotaExceeded."""
    quotas.admit_job(session, job.team_id)
    job.request_id, job.traceparent = logs.request_id(), traces.current_traceparent()
    if job.deadline_seconds is not None:
        job.deadline_at = now(job.deadline_seconds)
    session.add(job)
    session.flush()
    stored = update_job(session, job.id, events=[("queued", {})])
    wake_workers(session)
    return stored or job


def get(session: Session, team: str, job_id: str) -> Job:
    """Return one of the team's jobs. Raises NotFound."""
    # Polled constantly, so in few statements; the report is loaded only if needed.
    whole = (joinedload(Job.parts), joinedload(Job.others), defer(Job.report))
    query = select(Job).options(*whole).where(Job.id == job_id, Job.team_id == team, Job.deleted_at.is_(None))
    job = session.scalars(query).unique().one_or_none()
    if job is None:
        raise NotFound(f"no job {job_id}")
    return job


def whole_report(job: Job) -> dict[str, Any] | None:
    """Return a job's report with the rows of the data that it shows; None if it has none yet."""
    return None if job.report is None else with_samples(job.report, job.samples)


def cancel(session: Session, team: str, job_id: str) -> Job:
    """End a waiting job at once; ask the worker of a running one to stop. Raises WrongState if it ended otherwise."""
    # Locked: otherwise a job released between the two updates would match neither, and go on.
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
    if gone is not None:
        own_profiles.fail_queued(session, job_id, "The job was cancelled.")
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
"""Attempts of one claim while others take the first jobs: each attempt without a result means that another worker got a job."""
LONGEST_WAIT = 300.0
"""Maximum seconds between two attempts, however often a job was lost."""
ASKED = (
    *("team_id", "name", "labels", "task", "model_id", "dataset_id", "recipe", "evaluate", "targets", "priority"),
    *("deadline_seconds", "device", "devices", "memory_bytes", "card_bytes", "host_bytes_with_card", "disk_bytes", "forecast"),
)
"""The request's fields, which a retry copies."""


def retry(session: Session, team: str, job_id: str, key_id: str | None = None) -> Job:
    """Submit the same request again as a new job, with this key.

    Raises WrongState if the old job has not ended, NotFound if one of its models or datasets was deleted, InvalidSpec if its
    recipe has a key that has been removed since.
    """
    old = get(session, team, job_id)
    if old.state not in TERMINAL:
        raise WrongState(f"{job_id} is {old.state}; only a job that has ended can be retried")
    check_removed(old.recipe)
    for model in (old.model_id, *(other.model_id for other in old.others)):
        resources.get(session, Model, team, model, hold="share")
    for dataset in old.datasets:
        resources.get(session, Dataset, team, dataset, hold="share")
    parts = [JobDataset(position=part.position, dataset_id=part.dataset_id, name=part.name) for part in old.parts]
    others = [JobModel(position=other.position, model_id=other.model_id, role=other.role) for other in old.others]
    asked = {field: getattr(old, field) for field in ASKED}
    return submit(session, Job(**asked, parts=parts, others=others, retry_of=old.id, key_id=key_id))


def delete_job(session: Session, team: str, job_id: str) -> None:
    """Hide a job that has ended; the keeper frees its bytes. Its outcome and metrics stay. Raises WrongState."""
    job = get(session, team, job_id)
    if job.state not in TERMINAL:
        raise WrongState(f"{job_id} is {job.state}", remedy="Cancel the job first.")
    artifacts = select(Artifact.id).where(Artifact.job_id == job_id)
    session.execute(delete(File).where(File.artifact_id.in_(artifacts)))
    session.execute(delete(Artifact).where(Artifact.job_id == job_id))
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id))
    for kind in (Prediction, Profile, ShareLink):
        session.execute(delete(kind).where(kind.job_id == job_id))
    update_job(session, job_id, deleted_at=now(), samples=None)


# For workers.


def claim(session: Session, worker_id: str, lease_seconds: float, capacity: Capacity | None = None) -> Claim | None:
    """Claim the next job: of the team that is due, its first by priority, then age; None if nothing can run now.

    A job that asks for another device, or whose forecast exceeds a memory of `capacity`, waits for another worker.
    """
    values = {
        "state": RUNNING,
        "attempt": Job.attempt + 1,
        "fence": Job.fence + 1,
        "worker_id": worker_id,
        "lease_until": now(lease_seconds),
        "started_at": func.coalesce(Job.started_at, now()),
        "claimed_at": now(),
        "version": Job.version + 1,
        "progress": None,
    }
    job = None
    for again in range(CLAIM_TRIES):
        # Each team offers one job at a time. If others hold the locks on all of those, a worker that found nothing waits for
        # the locks and looks again.
        chosen = session.scalar(fair_share.next_job(capacity).with_for_update(skip_locked=not again, of=fair_share.ChosenJob))
        if chosen is not None and fair_share.hold_place(session, chosen):
            job = session.scalar(
                update(Job)
                .where(Job.id == chosen, Job.state == QUEUED)
                .values(values)
                .returning(Job)
                .execution_options(synchronize_session=False, populate_existing=True)
            )
        if job is not None or not has_waiting_job(session, capacity):
            break
    if job is None:
        return None
    claimed = Claim(job, job.fence)
    update_fenced(session, claimed, events=[("claimed", {"worker": worker_id, "attempt": job.attempt})])
    return claimed


def heartbeat(session: Session, claim: Claim, lease_seconds: float, **changes: Any) -> Heartbeat:
    """Renew the lease, store progress, and return cancel and drain requests. Raises StaleFence."""
    job = update_fenced(session, claim, lease_until=now(lease_seconds), **changes)
    drain = session.scalar(update(Worker).where(Worker.id == job.worker_id).values(seen_at=now()).returning(Worker.drain))
    overdue = job.deadline_at is not None and session.scalar(select(Job.deadline_at <= now()).where(Job.id == job.id))
    return Heartbeat(cancel=job.cancel_requested_at is not None, drain=bool(drain), overdue=bool(overdue))


def record_event(
    session: Session, claim: Claim, kind: EventType, data: dict[str, Any], *, origin: str | None = None, **changes: Any
) -> None:
    """Append an event, unless one of the same origin exists because the write is repeated. Raises StaleFence."""
    if origin is None or not was_written(session, claim, origin):
        update_fenced(session, claim, events=[(kind, data)], origin=origin, **changes)


def finish(
    session: Session, claim: Claim, report: dict[str, Any], artifacts: Sequence[tuple[ArtifactFacts, dict[str, str]]]
) -> None:
    """End successfully: report, last artifacts and outcome in one fenced transaction; may be repeated. Raises StaleFence."""
    mine = select(Job.state, Job.fence, Job.progress).where(Job.id == claim.job.id)
    found = session.execute(mine.with_for_update()).one()
    if (found.state, found.fence) == ("succeeded", claim.fence):
        return  # the reply to the first COMMIT was lost
    add_artifacts(session, claim, artifacts)
    session.flush()
    # The last progress was reported before the last step ended.
    progress = {**found.progress, "fraction": 1.0, "eta_seconds": 0.0} if found.progress else None
    report, samples = split_samples(report)
    ended: dict[str, Any] = {"state": "succeeded", "report": report, "samples": samples, "progress": progress}
    ended |= {"finished_at": now(), "lease_until": None}
    forecasts.remember(session, update_fenced(session, claim, events=[("succeeded", {})], **ended))
    own_profiles.fail_queued(session, claim.job.id, "The job has ended, and no device had begun it.")


def fail(session: Session, claim: Claim, error: dict[str, Any]) -> None:
    """End with an error that the sender must fix; no retry. Raises StaleFence."""
    ended = _end_values(session.scalar(select(Job.progress).where(Job.id == claim.job.id)))
    update_fenced(session, claim, events=[("failed", error)], state="failed", error=error, **ended)
    own_profiles.fail_queued(session, claim.job.id, "The job has failed.")


def mark_cancelled(session: Session, claim: Claim) -> None:
    """Record that the work stopped as requested. Raises StaleFence."""
    ended = _end_values(session.scalar(select(Job.progress).where(Job.id == claim.job.id)))
    update_fenced(session, claim, events=[("cancelled", {})], state="cancelled", **ended)
    own_profiles.fail_queued(session, claim.job.id, "The job was cancelled.")


def _end_values(progress: dict[str, Any] | None) -> dict[str, Any]:
    """Return the changes of a job that ends early: its progress stays, without a remaining time."""
    stopped = {**progress, "eta_seconds": None} if progress else None
    return {"progress": stopped, "finished_at": now(), "lease_until": None}


def release(session: Session, claim: Claim, reason: dict[str, Any] | None = None, wait_seconds: float = 0.0) -> None:
    """Return a job to the queue because its worker drains or cannot do it; this counts as no failure. Raises StaleFence.

    reason: the error of the worker's device, disk or storage, for the event, whose remedy is that of a job that still waits.
    wait_seconds: until the next attempt.

    A job whose cancellation was requested meanwhile ends: in the queue nobody would claim it, and nobody would end it.
    """
    query = select(Job.cancel_requested_at).where(Job.id == claim.job.id).with_for_update()
    if session.scalar(query) is not None:
        mark_cancelled(session, claim)
        return
    why = {**reason, "remedy": f"{_runs_again(wait_seconds)}."} if reason else {}
    update_fenced(
        session,
        claim,
        events=[("released", {"worker": claim.job.worker_id, **why})],
        state=QUEUED,
        worker_id=None,
        lease_until=None,
        progress=None,
        not_before=now(wait_seconds),
    )
    wake_workers(session)


def retry_or_fail(
    session: Session,
    claim: Claim,
    error: dict[str, Any],
    *,
    max_failures: int,
    backoff_seconds: float,
    split_batches: int | None = None,
) -> None:
    """Record a crash that the sender did not cause: requeue with a delay, up to a maximum number. Raises StaleFence.

    `split_batches`: number of parts into which each batch is split from now on.
    """
    changes = {} if split_batches is None else {"split_batches": split_batches}
    if not _requeue_or_fail(session, claim.job.id, claim.fence, error, max_failures, backoff_seconds, **changes):
        raise StaleFence(claim.job.id)


def _runs_again(wait_seconds: float) -> str:
    return f"Nothing: the job runs again by itself, in {wait_seconds:g} seconds at the earliest"


def _requeue_or_fail(
    session: Session,
    job_id: str,
    fence: int,
    error: dict[str, Any],
    cap: int,
    backoff: float,
    *more: ColumnElement[bool],
    **changes: Any,
) -> bool:
    # Locked: a cancellation between this read and the update would leave a job in the queue that nobody claims and nobody ends.
    job = session.scalar(select(Job).where(Job.id == job_id, *held_under(fence), *more).with_for_update())
    if job is None:
        return False
    failures = job.failures + 1
    common: dict[str, Any] = {"failures": failures, "lease_until": None, **changes}
    values: dict[str, Any]
    happened: list[tuple[EventType, dict[str, Any]]]
    if job.cancel_requested_at is not None:
        values = {"state": "cancelled", **common, **_end_values(job.progress)}
        happened = [("cancelled", {})]
    elif failures >= cap:
        values = {"state": "failed", "error": error, **common, **_end_values(job.progress)}
        happened = [("failed", error)]
    else:
        wait = min(backoff * 2 ** (failures - 1), LONGEST_WAIT)
        values = {"state": QUEUED, "worker_id": None, "not_before": now(wait), "progress": None, **common}
        remedy = f"{_runs_again(wait)}; it fails after {cap} failures."
        happened = [("requeued", {**error, "remedy": remedy, "failures": failures, "wait_seconds": wait})]
        wake_workers(session)
    if values["state"] in TERMINAL:
        own_profiles.fail_queued(session, job_id, f"The job is {values['state']}.")
    return update_job(session, job_id, *held_under(fence), *more, events=happened, **values) is not None


# For the keeper.


def requeue_expired(session: Session, *, max_failures: int, backoff_seconds: float) -> list[str]:
    """Requeue jobs whose worker's lease has expired; return their ids."""
    dead = select(Job.id, Job.fence).where(Job.state == RUNNING, Job.lease_until < now())
    dead = dead.order_by(Job.team_id).with_for_update(skip_locked=True)  # each updates its team's row: always in the same order
    return [
        job_id
        for job_id, fence in session.execute(dead).all()
        if _requeue_or_fail(
            session, job_id, fence, describe_failure("worker_lost"), max_failures, backoff_seconds, Job.lease_until < now()
        )
    ]


def requeue_orphans(session: Session, worker_id: str, *, max_failures: int, backoff_seconds: float) -> list[str]:
    """Requeue the jobs of a worker that is about to claim, and so runs none; return their ids.

    Its process died and restarted, or the reply to a claim's COMMIT was lost. The leases need not expire first.
    """
    mine = select(Job.id, Job.fence).where(Job.state == RUNNING, Job.worker_id == worker_id)
    mine = mine.order_by(Job.team_id).with_for_update(skip_locked=True)
    return [
        job_id
        for job_id, fence in session.execute(mine).all()
        if _requeue_or_fail(session, job_id, fence, describe_failure("worker_lost"), max_failures, backoff_seconds)
    ]


def fail_overdue(session: Session) -> list[str]:
    """Fail waiting jobs whose deadline has passed; return their ids. The worker of a running job does this itself."""
    late = select(Job.id).where(Job.state == QUEUED, Job.deadline_at <= now())
    late = late.order_by(Job.team_id).with_for_update(skip_locked=True)
    error = describe_failure("deadline_exceeded")
    values: dict[str, Any] = {"state": "failed", "error": error, "finished_at": now()}
    failed = [
        job_id
        for job_id in session.scalars(late).all()
        if update_job(session, job_id, Job.state == QUEUED, Job.deadline_at <= now(), events=[("failed", error)], **values)
    ]
    for job_id in failed:
        own_profiles.fail_queued(session, job_id, "The job has failed.")
    return failed


def has_waiting_job(session: Session, capacity: Capacity | None = None) -> bool:
    """Return whether a worker with this capacity could claim a job now."""
    return session.scalar(fair_share.next_job(capacity)) is not None
