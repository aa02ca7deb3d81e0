"""The tables of who may ask, and of who asked what: keys, sessions of browsers, share links, the audit log."""

import datetime as dt

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.ids import new_id
from app.store.base import Base
from app.store.clock import now

ADMIN, WRITE, READ, DEVICE = "admin", "write", "read", "device"


class ApiKey(Base):
    """A key, of which only the hash is kept. ADMIN may do what WRITE may, WRITE what READ may; DEVICE is beside them."""

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
    """To the minute: it is not written with each request."""
    made_by: Mapped[str | None] = mapped_column(String(40))
    """The key that made it; None of one that was made at the database, or before this was kept."""
    replaces: Mapped[str | None] = mapped_column(String(40))
    """The key whose rotation made it."""


class SignIn(Base):
    """A browser that somebody signed in from with a key. Only the hash of its cookie is kept; it ends with its key."""

    __tablename__ = "sessions"
    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    expires_at: Mapped[dt.datetime]


class ShareLink(Base):
    """A link that shows one report without a key, until it or the key that made it ends; of its token only the hash is kept."""

    __tablename__ = "share_links"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("shr"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    key_id: Mapped[str | None] = mapped_column(String(40))
    """The key that made it; None of a link of before this was kept."""
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    expires_at: Mapped[dt.datetime]


class AuditEntry(Base):
    """Who did what to which object, and how it ended. Triggers refuse every change; a row goes after its `keep_until`."""

    __tablename__ = "audit_log"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("aud"))
    at: Mapped[dt.datetime] = mapped_column(default=now())
    team_id: Mapped[str] = mapped_column(String(40))
    key_id: Mapped[str] = mapped_column(String(40))
    address: Mapped[str | None] = mapped_column(String(64))
    """Where the request came from, as the server saw it."""
    action: Mapped[str] = mapped_column(String(100))
    """The noun and the verb: `jobs.cancel`."""
    object: Mapped[str | None] = mapped_column(String(200))
    """The id that it was done to, or that it made."""
    outcome: Mapped[str] = mapped_column(String(60))
    """`ok`, or the code of the problem that refused it."""
    request_id: Mapped[str | None] = mapped_column(String(64))
    keep_until: Mapped[dt.datetime]

    __table_args__ = (
        Index("ix_audit_log_team_id_id", "team_id", "id"),
        Index("ix_audit_log_keep_until", "keep_until"),
        # With a rowid, INSERT OR REPLACE could put a row in the place of another without a trigger seeing the other go.
        {"sqlite_with_rowid": False},
    )
