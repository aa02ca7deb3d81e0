"""Tables of access: API keys, browser sessions, share links and the audit log."""

import datetime as dt

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.ids import new_id
from app.store.base import Base
from app.store.clock import now

ADMIN, WRITE, READ, DEVICE = "admin", "write", "read", "device"


class ApiKey(Base):
    """An API key; only its hash is stored. ADMIN may do what WRITE may, WRITE what READ may; DEVICE is separate."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(20), default=WRITE, server_default=WRITE)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    revoked_at: Mapped[dt.datetime | None]
    expires_at: Mapped[dt.datetime | None]
    last_used_at: Mapped[dt.datetime | None]
    """To the minute: it is not written on every request."""
    made_by: Mapped[str | None] = mapped_column(String(40))
    """The key that created this one; None if it was created at the database, or before this was recorded."""
    replaces: Mapped[str | None] = mapped_column(String(40))
    """The key whose rotation created this one."""
    device_id: Mapped[str | None] = mapped_column(String(40))
    """Of a DEVICE key that was made for a registered device: it does that device's tasks, and reads what they need."""


class SignIn(Base):
    """A browser session, signed in with a key. Only the hash of its cookie is stored; it ends with its key."""

    __tablename__ = "sessions"
    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    expires_at: Mapped[dt.datetime]


class ShareLink(Base):
    """A link that shows one report without a key, until it or the key that created it ends. Only its token's hash is stored."""

    __tablename__ = "share_links"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("shr"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    key_id: Mapped[str | None] = mapped_column(String(40))
    """The key that created it; None for links from before this was recorded."""
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    expires_at: Mapped[dt.datetime]


class AuditEntry(Base):
    """Who did what to which object, and the outcome. Triggers reject every change; a row is deleted after its `keep_until`."""

    __tablename__ = "audit_log"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("aud"))
    at: Mapped[dt.datetime] = mapped_column(default=now())
    team_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str] = mapped_column(String(40))
    address: Mapped[str | None] = mapped_column(String(64))
    """The client's address, as the server saw it."""
    action: Mapped[str] = mapped_column(String(100))
    """Noun and verb: `jobs.cancel`."""
    object: Mapped[str | None] = mapped_column(String(200))
    """The id of the object that was changed or created."""
    outcome: Mapped[str] = mapped_column(String(60))
    """`ok`, or the code of the problem."""
    request_id: Mapped[str | None] = mapped_column(String(64))
    keep_until: Mapped[dt.datetime]

    __table_args__ = (
        Index("ix_audit_log_team_id_id", "team_id", "id"),
        Index("ix_audit_log_keep_until", "keep_until"),
        # With a rowid, INSERT OR REPLACE could replace a row without firing the delete trigger.
        {"sqlite_with_rowid": False},
    )
