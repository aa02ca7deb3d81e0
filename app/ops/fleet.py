"""The fleet: workers, queue, storage, and usage by team. Of other teams, only sums are shown."""

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.core.schemas import Out
from app.store import resources
from app.store.clock import now, seconds_between
from app.store.models import JOB_STATES, QUEUED, RUNNING, Artifact, Dataset, File, Job, Model, Prediction, Team, Worker
from app.store.quotas import worker_seconds
from app.store.storage import LocalStorage, Storage
from compression.schema.worker_device import read_device

ALIVE_SECONDS = 30.0
MOST_WORKERS = 200
OTHERS = "other teams"


class WorkerOut(Out):
    """A worker as it last reported itself."""

    id: str
    kind: str
    host: Annotated[str | None, Field(description="Null except for operators.")]
    pid: Annotated[int | None, Field(description="Null except for operators.")]
    facts: dict[str, Any]
    drain: bool
    rests_until: dt.datetime | None
    """Until when it claims nothing, because its disk or the storage failed; null if it does not rest."""
    rest_reason: Annotated[str | None, Field(description="What failed. Null except for operators.")]
    started_at: dt.datetime
    seen_at: dt.datetime
    alive: bool
    silent_seconds: Annotated[float, Field(description="Since its last heartbeat.")]
    busy: Annotated[bool, Field(description="Whether it runs a job of any team.")]
    job: str | None


class QueueOut(Out):
    """What waits and runs, of all teams."""

    queued: int
    running: int
    checks: Annotated[int, Field(description="Uploads that wait for their check, or are checked.")]
    tries: Annotated[int, Field(description="Predictions by finished jobs' models that wait or run.")]
    longest_wait_seconds: Annotated[
        float | None, Field(description="Since the oldest waiting job was submitted; null if none waits.")
    ]


class StorageOut(Out):
    """Storage. `used_bytes` counts the bytes that rows name: models, datasets and artifacts of all teams."""

    kind: Annotated[str, Field(description="file: a folder; s3: a bucket.")]
    used_bytes: int
    free_bytes: Annotated[int | None, Field(description="Free space; null if it is unlimited or unknown.")]


class Used(Out):
    """Usage of a team."""

    team: Annotated[str, Field(description="The caller's team by name; all others together as `other teams`.")]
    mine: bool
    jobs: Annotated[dict[str, int], Field(description="By state, of those submitted in the requested time.")]
    worker_minutes: Annotated[float, Field(description="Of all attempts at these jobs, not of the waits between them.")]
    models_bytes: Annotated[int, Field(description="Currently stored, whenever it was uploaded.")]
    datasets_bytes: int
    artifacts_bytes: int


class UsageOut(Out):
    """Usage by team since a time."""

    since: dt.datetime
    items: list[Used]


def workers(session: Session, team: str, *, operations: bool) -> list[WorkerOut]:
    """Return the workers and how long ago each was last seen; `job` only if it is one of the team's.

    operations: include host and process, which tenants do not see.
    """
    silent, rests = seconds_between(Worker.seen_at, now()), Worker.rests_until > now()
    mine = case((Job.team_id == team, Job.id))
    rows = session.execute(
        select(Worker, silent, rests, mine, Job.id.is_not(None))
        .outerjoin(Job, (Job.worker_id == Worker.id) & (Job.state == RUNNING))
        .order_by(Worker.seen_at.desc())
        .limit(MOST_WORKERS)
    )
    same = ("id", "kind", "facts", "drain", "started_at", "seen_at")
    return [
        WorkerOut(
            **{name: getattr(worker, name) for name in same},
            host=worker.host if operations else None,
            pid=worker.pid if operations else None,
            rests_until=worker.rests_until if resting else None,
            rest_reason=worker.rest_reason if resting and operations else None,
            alive=seconds < ALIVE_SECONDS,
            silent_seconds=max(0.0, float(seconds)),
            busy=bool(busy),
            job=job,
        )
        for worker, seconds, resting, job, busy in rows
    ]


def queue(session: Session) -> QueueOut:
    """Count what waits and runs."""
    states = (QUEUED, RUNNING)
    counts = dict(session.execute(select(Job.state, func.count()).where(Job.state.in_(states)).group_by(Job.state)).all())
    checks = sum(
        session.scalar(
            select(func.count()).select_from(kind).where(kind.state == resources.VALIDATING, kind.deleted_at.is_(None))
        )
        or 0
        for kind in (Model, Dataset)
    )
    tries = session.scalar(select(func.count()).select_from(Prediction).where(Prediction.state.in_(states))) or 0
    oldest = session.scalar(select(func.max(seconds_between(Job.created_at, now()))).where(Job.state == QUEUED))
    longest = None if oldest is None else max(0.0, float(oldest))
    return QueueOut(
        queued=counts.get(QUEUED, 0), running=counts.get(RUNNING, 0), checks=checks, tries=tries, longest_wait_seconds=longest
    )


def _bytes(session: Session) -> dict[str, dict[str, int]]:
    """Return kind → team → stored bytes."""
    kept: dict[str, dict[str, int]] = {}
    total = func.coalesce(func.sum(File.size), 0)
    for kind, name, owner in ((Model, "models", File.model_id), (Dataset, "datasets", File.dataset_id)):
        query = select(kind.team_id, total).join(File, owner == kind.id).where(File.key.is_not(None)).group_by(kind.team_id)
        kept[name] = {team: int(size) for team, size in session.execute(query)}
    made = select(Job.team_id, total).join(Artifact, Artifact.job_id == Job.id).join(File, File.artifact_id == Artifact.id)
    kept["artifacts"] = {team: int(size) for team, size in session.execute(made.group_by(Job.team_id))}
    return kept


def storage(session: Session, place: Storage) -> StorageOut:
    """Return how much is stored, and how much space is left."""
    used = sum(size for teams in _bytes(session).values() for size in teams.values())
    kind = "file" if isinstance(place, LocalStorage) else "s3"
    return StorageOut(kind=kind, used_bytes=used, free_bytes=place.free_bytes())


def usage(session: Session, team: str, days: int) -> UsageOut:
    """Return what the caller's team and all others used in the last days."""
    since = session.scalars(select(now(-days * 86400.0))).one()
    recent = Job.created_at > since
    counts = session.execute(select(Job.team_id, Job.state, func.count()).where(recent).group_by(Job.team_id, Job.state)).all()
    worked = session.execute(select(Job.team_id, func.sum(worker_seconds())).where(recent).group_by(Job.team_id)).all()
    kept = _bytes(session)
    mine = session.get_one(Team, team).name
    teams = session.scalar(select(func.count()).select_from(Team)) or 1

    def used(own: bool) -> Used:
        jobs = dict.fromkeys(JOB_STATES, 0)
        for other, state, count in counts:
            jobs[state] += count if (other == team) is own else 0
        minutes = sum(float(seconds or 0) for other, seconds in worked if (other == team) is own) / 60
        held = {f"{kind}_bytes": _share(sizes, team, own) for kind, sizes in kept.items()}
        return Used(team=mine if own else OTHERS, mine=own, jobs=jobs, worker_minutes=minutes, **held)

    return UsageOut(since=since, items=[used(True), *([used(False)] if teams > 1 else [])])


def _share(sizes: dict[str, int], team: str, own: bool) -> int:
    return sum(size for other, size in sizes.items() if (other == team) is own)


def devices(facts: dict[str, Any]) -> Sequence[str]:
    """Return the devices that a worker computes on, as it reported at its start."""
    return facts.get("devices") or ["CPU"]


def device_summary(facts: dict[str, Any]) -> str:
    """Return the figures of a worker's device: memory, versions and rates, as far as they are known."""
    device = read_device(facts)
    return device.summary() if device is not None else ""


def lost_device(facts: dict[str, Any]) -> str | None:
    """Return why a worker's device does not work now; None if it does."""
    device = read_device(facts)
    return device.lost if device is not None else None
