"""Space reserved for running uploads, kept in the database, so that the uploads of several processes fit together.

An upload reserves the space it needs before its first byte, reports the remaining bytes now and then, and releases the rest at
its end. If it reports nothing for a while, because its client or its process is gone, its reservation expires.
"""

import datetime as dt

from sqlalchemy import ForeignKey, String, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.core.errors import StorageFull
from app.core.ids import new_id
from app.store.base import Base
from app.store.clock import now

SPARE_BYTES = 64 << 20
"""Bytes that an upload leaves free, so that the database on the same disk can go on."""
LIFETIME_SECONDS = 60.0
"""A reservation expires if its upload reports nothing for so long."""
_LOCK = 0x1A7E
"""The lock under which PostgreSQL compares free space with reservations; SQLite has one writer at a time anyway."""


class Reservation(Base):
    """Bytes that an upload has yet to write."""

    __tablename__ = "reservations"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("rsv"))
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), index=True)
    bytes: Mapped[int]
    expires_at: Mapped[dt.datetime]


def reserved_bytes(session: Session, team: str | None = None) -> int:
    """Return the bytes that uploads of a team, or of all teams, have yet to write."""
    promised = select(func.coalesce(func.sum(Reservation.bytes), 0)).where(Reservation.expires_at > now())
    return int(session.scalar(promised if team is None else promised.where(Reservation.team_id == team)) or 0)


def lock_reservations(session: Session) -> None:
    """Block other reservations until the commit."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def reserve(session: Session, team: str, needed: int, free: int | None) -> str:
    """Reserve bytes of the free space, after `lock_reservations`; return the reservation's id. Raises StorageFull."""
    session.execute(delete(Reservation).where(Reservation.expires_at <= now()))
    others = reserved_bytes(session)
    if free is not None and free - others < needed + SPARE_BYTES:
        cause = f"{needed} bytes do not fit into {free} free ones, of which other uploads have reserved {others}"
        raise StorageFull(cause)
    row = Reservation(team_id=team, bytes=needed, expires_at=now(LIFETIME_SECONDS))
    session.add(row)
    session.flush()
    return row.id


def renew(session: Session, reservation: str, left: int) -> bool:
    """Report how many bytes are still to come; return False if the reservation has expired."""
    mine = update(Reservation).where(Reservation.id == reservation, Reservation.expires_at > now())
    return session.scalar(mine.values(bytes=left, expires_at=now(LIFETIME_SECONDS)).returning(Reservation.id)) is not None


def release(session: Session, reservation: str) -> None:
    """Release the rest."""
    session.execute(delete(Reservation).where(Reservation.id == reservation))
