"""Tables of devices, which measure artifacts, of the profiles that they make, and of what layers cost on workers."""

import datetime as dt
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.ids import new_id
from app.store.base import Base
from app.store.clock import now

IN_FORCE = text("deleted_at IS NULL")
QUEUED = text("state = 'queued'")
RUNNING = text("state = 'running'")


class Device(Base):
    """A machine that measures artifacts. Its API keys name it (`ApiKey.device_id`)."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("dev"))
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"))
    name: Mapped[str] = mapped_column(String(100))
    facts: Mapped[dict[str, Any] | None]
    """A `DeviceFacts`, from its last profile."""
    last_heard: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    deleted_at: Mapped[dt.datetime | None]

    __table_args__ = (
        # A removed device frees its name.
        Index("ix_devices_name", "team_id", "name", unique=True, postgresql_where=IN_FORCE, sqlite_where=IN_FORCE),
    )


class Profile(Base):
    """What an artifact costs on a device: requested, measured, or failed. It goes with its artifact.

    `fence` counts the claims: what a device sends about an earlier claim is refused.
    """

    __tablename__ = "profiles"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("prf"))
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id", ondelete="CASCADE"), index=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    key_id: Mapped[str] = mapped_column(String(40))
    request: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20), default="queued")
    attempt: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[dt.datetime | None]
    figures: Mapped[dict[str, Any] | None]
    """`ProfileFigures` of the result, for lists."""
    result: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    finished_at: Mapped[dt.datetime | None]

    __table_args__ = (
        Index("ix_profiles_team_id_id", "team_id", "id"),
        Index("ix_profiles_line", "device_id", "id", postgresql_where=QUEUED, sqlite_where=QUEUED),
        Index("ix_profiles_leases", "lease_until", postgresql_where=RUNNING, sqlite_where=RUNNING),
    )


class StoredTable(Base):
    """A `DeviceTable`, measured by the engine of some job. It belongs to no team."""

    __tablename__ = "device_tables"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("dtb"))
    digest: Mapped[str] = mapped_column(String(64))
    """Of its conditions."""
    processor: Mapped[str] = mapped_column(String(200))
    threads: Mapped[int]
    facts: Mapped[dict[str, Any]]
    """Its conditions, and how many rows it has, for lists."""
    content: Mapped[dict[str, Any]] = mapped_column(deferred=True)
    worker: Mapped[str | None] = mapped_column(String(40))
    measured_at: Mapped[dt.datetime]

    __table_args__ = (
        UniqueConstraint("digest", name="uq_device_tables_digest"),
        Index("ix_device_tables_processor", "processor", "threads", "measured_at"),
    )


class JobTimes(Base):
    """How long a finished job took on a machine, beside what was forecast for that machine: later forecasts learn from it."""

    __tablename__ = "job_times"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    machine: Mapped[str] = mapped_column(String(200))
    """Name of the card that trained it, or of the processor."""
    threads: Mapped[int]
    kind: Mapped[str] = mapped_column(String(60))
    """Its task, and whether anything was trained."""
    stages: Mapped[dict[str, Any]]
    """By stage, [seconds as forecast, seconds that it took]."""
    finished_at: Mapped[dt.datetime] = mapped_column(default=now())

    __table_args__ = (Index("ix_job_times_machine", "machine", "threads", "kind", "finished_at"),)
