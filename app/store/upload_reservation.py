"""The reservation of one upload, from before its first byte to its end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError

from app.store import quotas, reservations
from app.store.db import writing
from app.store.storage import Storage

RENEW_SECONDS = 5.0
"""How often an upload reports the bytes still to come."""


class UploadReservation:
    """The space that an upload may still write; `note_received` reduces it."""

    def __init__(self, storage: Storage, team: str, needed: int) -> None:
        self.storage, self.team, self.left = storage, team, needed
        self.renewed_at = time.monotonic()
        self.reservation = ""

    def reserve(self) -> None:
        """Reserve it. Raises StorageFull, BytesQuotaExceeded."""
        with writing() as session:
            quotas.admit_arriving(session, self.team, self.left)
            reservations.lock_reservations(session)
            self.reservation = reservations.reserve(session, self.team, self.left, self.storage.free_bytes())

    def renew(self) -> None:
        """Report the bytes still to come; if the reservation has expired, reserve again. Raises what `reserve` does."""
        with writing() as session:
            mine = reservations.renew(session, self.reservation, self.left)
        if not mine:
            self.reserve()

    def release(self) -> None:
        """Release the rest."""
        with writing() as session:
            reservations.release(session, self.reservation)

    async def note_received(self, size: int) -> None:
        """Record received bytes."""
        self.left = max(0, self.left - size)
        if time.monotonic() - self.renewed_at >= RENEW_SECONDS:
            self.renewed_at = time.monotonic()
            await asyncio.to_thread(self.renew)


@asynccontextmanager
async def reserve_upload(storage: Storage, team: str, needed: int) -> AsyncIterator[UploadReservation]:
    """Hold a reservation for so many bytes. Raises StorageFull, BytesQuotaExceeded."""
    held = UploadReservation(storage, team, needed)
    await asyncio.to_thread(held.reserve)
    try:
        yield held
    finally:
        with suppress(SQLAlchemyError):  # then it expires by itself
            await asyncio.shield(asyncio.to_thread(held.release))
