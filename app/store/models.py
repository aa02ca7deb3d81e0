"""The tables. Only app/jobs writes job state; only resources.py writes the state of models and datasets."""

import datetime as dt
from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.ids import new_id
from app.store.account_models import ADMIN, DEVICE, READ, WRITE, ApiKey, AuditEntry, ShareLink, SignIn
from app.store.base import Base
from app.store.clock import now
from app.store.device_models import Device, Profile, StoredTable
from compression.schema.worker_device import WantedDevice

__all__ = [
    "ADMIN",
    "DEVICE",
    "READ",
    "WRITE",
    "ApiKey",
    "AuditEntry",
    "Base",
    "Device",
    "Profile",
    "ShareLink",
    "SignIn",
    "StoredTable",
]

QUEUED, RUNNING = "queued", "running"
TERMINAL = ("succeeded", "failed", "cancelled")
JOB_STATES = (QUEUED, RUNNING, *TERMINAL)


class Team(Base):
    """The owner of models, datasets and jobs."""

    __tablename__ = "teams"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("team"))
    name: Mapped[str] = mapped_column(String(100), unique=True)
    operator: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether its admins operate the service: they create, rename and close teams."""
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    weight: Mapped[float] = mapped_column(default=1.0, server_default="1")
    quotas: Mapped[dict[str, Any] | None]
    """The team's own limits, by name (quotas.py); the settings' defaults apply to the others."""
    # Triggers on jobs maintain these counts, so that no query counts the waiting jobs.
    queued: Mapped[int] = mapped_column(default=0, server_default="0")
    running: Mapped[int] = mapped_column(default=0, server_default="0")


class TeamDay(Base):
    """Worker seconds of a team's jobs, by the day (UTC) on which their attempts ended. Triggers on jobs maintain the sum."""

    __tablename__ = "team_days"
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    day: Mapped[dt.datetime] = mapped_column(primary_key=True)
    seconds: Mapped[float]


class Resource:
    """Columns of models and datasets: uploaded, checked in a separate process, then ready or rejected.

    Their `files` may be 100,000: queries (resources.py) read those that are needed, and no request loads them all.
    """

    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(20), default="uploading")
    facts: Mapped[dict[str, Any] | None]
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    arrived_at: Mapped[dt.datetime | None]
    deleted_at: Mapped[dt.datetime | None]
    purged_at: Mapped[dt.datetime | None]
    check_lease_until: Mapped[dt.datetime | None]
    check_attempts: Mapped[int] = mapped_column(default=0)
    # As the manifest declares them, so that lists and sums need not read files.
    file_count: Mapped[int] = mapped_column(default=0, server_default="0")
    bytes: Mapped[int] = mapped_column(default=0, server_default="0")


class Model(Resource, Base):
    """An uploaded checkpoint."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("mdl"))
    files: Mapped[list["File"]] = relationship(order_by="File.path", cascade="all, delete-orphan")


class Dataset(Resource, Base):
    """Data files and the meaning of their columns."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("dat"))
    task: Mapped[str] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    files: Mapped[list["File"]] = relationship(order_by="File.path", cascade="all, delete-orphan")


class JobDataset(Base):
    """One of several datasets of a job. `name` is its name in rows, artifacts and checkpoints; it never changes."""

    __tablename__ = "job_datasets"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    name: Mapped[str] = mapped_column(String(40))


STUDENT, TEACHER = "student", "teacher"


class JobModel(Base):
    """A model that a job needs besides its base: the student or a teacher. It never changes."""

    __tablename__ = "job_models"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    role: Mapped[str] = mapped_column(String(20))


def _in_state(state: str) -> dict[str, Any]:
    return dict.fromkeys(("postgresql_where", "sqlite_where"), text(f"state = '{state}'"))


class Job(Base):
    """An accepted request: it reaches exactly one outcome.

    `dataset_id` is the first dataset; `parts` has all if there are several, else none. `model_id` is the base model; `others`
    are the request's other models. `samples` are the rows of the data that `report` shows: they go with their dataset.
    """

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("job"))
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    task: Mapped[str] = mapped_column(String(40))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    recipe: Mapped[dict[str, Any]]
    resolved: Mapped[dict[str, Any] | None]  #: what a device table decided of the recipe, a `Resolved`: for all attempts
    evaluate: Mapped[dict[str, Any]]
    targets: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(default=0)
    deadline_seconds: Mapped[int | None]
    deadline_at: Mapped[dt.datetime | None]
    device: Mapped[WantedDevice] = mapped_column(String(8), default="any", server_default="any")
    devices: Mapped[int] = mapped_column(default=1, server_default="1")  #: that train together: the recipe's train.devices
    memory_bytes: Mapped[int | None]  #: the forecast peak of a host without a card
    card_bytes: Mapped[int | None]
    host_bytes_with_card: Mapped[int | None]
    disk_bytes: Mapped[int | None]
    forecast: Mapped[dict[str, Any] | None]
    retry_of: Mapped[str | None] = mapped_column(String(40))
    key_id: Mapped[str | None] = mapped_column(String(40))
    request_id: Mapped[str | None] = mapped_column(String(64))
    traceparent: Mapped[str | None] = mapped_column(String(64))

    state: Mapped[str] = mapped_column(String(20), default=QUEUED)
    stage: Mapped[str | None] = mapped_column(String(20))
    progress: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    report: Mapped[dict[str, Any] | None]
    samples: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    version: Mapped[int] = mapped_column(default=1)
    event_seq: Mapped[int] = mapped_column(default=0)

    attempt: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    split_batches: Mapped[int] = mapped_column(default=1, server_default="1")
    swept_fence: Mapped[int] = mapped_column(default=0, server_default="0")
    worker_id: Mapped[str | None] = mapped_column(String(40))
    lease_until: Mapped[dt.datetime | None]
    not_before: Mapped[dt.datetime | None]

    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    started_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    claimed_at: Mapped[dt.datetime | None]
    """When the last attempt began; `started_at`: the first one."""
    worker_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """Of the attempts that have ended."""
    cancel_requested_at: Mapped[dt.datetime | None]
    deleted_at: Mapped[dt.datetime | None]
    purged_at: Mapped[dt.datetime | None]

    metrics: Mapped[list["Metric"]] = relationship(order_by="Metric.position", lazy="selectin")
    parts: Mapped[list["JobDataset"]] = relationship(order_by="JobDataset.position", lazy="selectin")
    others: Mapped[list["JobModel"]] = relationship(order_by="JobModel.position", lazy="selectin")

    @property
    def datasets(self) -> list[str]:
        """Ids of all its datasets, in order."""
        return [part.dataset_id for part in self.parts] or [self.dataset_id]

    @property
    def student(self) -> str | None:
        """Id of the named student, if there is one."""
        return next((other.model_id for other in self.others if other.role == STUDENT), None)

    @property
    def teachers(self) -> list[str]:
        """Ids of the named teachers, in order."""
        return [other.model_id for other in self.others if other.role == TEACHER]

    __table_args__ = (
        Index("ix_jobs_line", "team_id", text("priority DESC"), "id", **_in_state(QUEUED)),
        Index("ix_jobs_leases", "lease_until", **_in_state(RUNNING)),
        Index("ix_jobs_succeeded", "finished_at", **_in_state("succeeded")),
        Index("ix_jobs_team_id_id", "team_id", "id"),
        Index("ix_jobs_state_deleted_at", "state", "deleted_at"),
    )


class Metric(Base):
    """One row of a job's table. The columns serve queries over many jobs; `row` has everything."""

    __tablename__ = "metrics"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(20), primary_key=True)
    position: Mapped[int]
    fence: Mapped[int]
    parameters: Mapped[int]
    size_bytes: Mapped[int]
    latency_ms: Mapped[float | None]
    score: Mapped[float | None]
    seconds: Mapped[float | None]
    row: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


TRAINING = "training"


class Checkpoint(Base):
    """A finished stage from which a new attempt resumes; `training`: the stage in progress; `tables`: error tables, kept."""

    __tablename__ = "checkpoints"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(20), primary_key=True)
    fence: Mapped[int]
    prefix: Mapped[str] = mapped_column(Text)
    files: Mapped[list[Any]]


EventType = Literal[
    "queued",
    "claimed",
    "started",
    "stage_started",
    "progress",
    "log",
    "part_finished",
    "stage_finished",
    "training_saved",
    "tables_saved",
    "released",
    "requeued",
    "cancel_requested",
    "succeeded",
    "failed",
    "cancelled",
]
"""Kinds of a job's events, in the database and on the wire."""


class Event(Base):
    """What happened to a job, in order. `origin` identifies the write, so that a repeated write adds one event."""

    __tablename__ = "events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[EventType] = mapped_column(String(40))
    data: Mapped[dict[str, Any]]
    origin: Mapped[str | None] = mapped_column(String(40))
    at: Mapped[dt.datetime] = mapped_column(default=now())

    __table_args__ = (
        Index("ix_events_origin", "job_id", "origin", unique=True),
        Index("ix_events_requeued", "type", postgresql_where=text("type = 'requeued'"), sqlite_where=text("type = 'requeued'")),
    )


class Artifact(Base):
    """Something to download."""

    __tablename__ = "artifacts"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("art"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    fence: Mapped[int]
    name: Mapped[str] = mapped_column(String(100))
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    files: Mapped[list["File"]] = relationship(order_by="File.path", lazy="selectin", cascade="all, delete-orphan")

    __table_args__ = (UniqueConstraint("job_id", "name"),)


class File(Base):
    """One file of a model, a dataset or an artifact. `key` is its storage key once its bytes are stored."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("fil"))
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id"), index=True)
    path: Mapped[str] = mapped_column(String(255))
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        UniqueConstraint("model_id", "path"),
        UniqueConstraint("dataset_id", "path"),
        UniqueConstraint("artifact_id", "path"),
    )


class Prediction(Base):
    """A request to predict with a finished job's models, before and after. A worker of the lane `checks` answers it."""

    __tablename__ = "tries"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("try"))
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    part: Mapped[str] = mapped_column(String(40))
    asked: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20), default=QUEUED)
    attempt: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[dt.datetime | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    finished_at: Mapped[dt.datetime | None]

    __table_args__ = (
        Index("ix_tries_team_id_created_at", "team_id", "created_at"),
        Index(
            "ix_tries_open",
            "id",
            postgresql_where=text("state IN ('queued', 'running')"),
            sqlite_where=text("state IN ('queued', 'running')"),
        ),
    )


class UploadPart(Base):
    """A part of an incomplete file: `size` bytes from `start`, stored under a key of its own until the file is complete."""

    __tablename__ = "upload_parts"
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int]
    key: Mapped[str] = mapped_column(Text)


class Worker(Base):
    """A process that runs jobs or checks, as it last reported itself."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    facts: Mapped[dict[str, Any]]
    drain: Mapped[bool] = mapped_column(default=False)
    rests_until: Mapped[dt.datetime | None]
    rest_reason: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[dt.datetime] = mapped_column(default=now())
    seen_at: Mapped[dt.datetime] = mapped_column(default=now())


class IdempotencyKey(Base):
    """The answer of a creating POST, so that a repeated request gets the same answer and creates nothing."""

    __tablename__ = "idempotency_keys"
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


class Leader(Base):
    """Who holds a unique role, such as the keeper's."""

    __tablename__ = "leaders"
    office: Mapped[str] = mapped_column(String(40), primary_key=True)
    holder: Mapped[str] = mapped_column(String(100))
    until: Mapped[dt.datetime]
