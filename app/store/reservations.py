"""Room that uploads under way have been promised, kept in the database: what several processes take in fits together.

An upload reserves what it will need before its first byte, says now and then how much is still to come, and releases the rest
at its end. One that says nothing for a while, because its sender or its process is gone, loses its room without a sweep.
"""

import datetime as dt

from sqlalchemy import ForeignKey, String, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.core.errors import StorageFull
from app.core.ids import new_id
from app.store.base import Base
from app.store.clock import now

SPARE_BYTES = 64 << 20
"""Bytes that an upload leaves free: the database on the same disk must be able to go on."""
LIFETIME_SECONDS = 60.0
"""A reservation whose upload says nothing for so long is void."""
_LOCK = 0x1A7E
"""Names the lock under which PostgreSQL compares room with what is promised; on SQLite one writes at a time anyway."""


class Reservation(Base):
    """Bytes that an upload is still to write."""

    __tablename__ = "reservations"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("rsv"))
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), index=True)
    bytes: Mapped[int]
    expires_at: Mapped[dt.datetime]


def reserved_bytes(session: Session, team: str | None = None) -> int:
    """Return the bytes that uploads of a team, or of all, are still to write."""
    promised = select(func.coalesce(func.sum(Reservation.bytes), 0)).where(Reservation.expires_at > now())
    return int(session.scalar(promised if team is None else promised.where(Reservation.team_id == team)) or 0)


def lock_reservations(session: Session) -> None:
    """Let nobody else reserve until the commit."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def reserve(session: Session, team: str, needed: int, free: int | None) -> str:
    """Reserve bytes of what is free, after `hold_room`; return the reservation's id. Raises StorageFull."""
    session.execute(delete(Reservation).where(Reservation.expires_at <= now()))
    others = reserved_bytes(session)
    if free is not None and free - others < needed + SPARE_BYTES:
        cause = f"{needed} bytes do not fit into the {free} that are left, {others} of which other uploads have reserved"
        raise StorageFull(cause)
    row = Reservation(team_id=team, bytes=needed, expires_at=now(LIFETIME_SECONDS))
    session.add(row)
    session.flush()
    return row.id


def renew(session: Session, reservation: str, left: int) -> bool:
    """Say how many bytes are still to come; False where the reservation is void."""
    mine = update(Reservation).where(Reservation.id == reservation, Reservation.expires_at > now())
    return session.scalar(mine.values(bytes=left, expires_at=now(LIFETIME_SECONDS)).returning(Reservation.id)) is not None


def release(session: Session, reservation: str) -> None:
    """Give the rest back."""
    session.execute(delete(Reservation).where(Reservation.id == reservation))
