"""The room that one upload has reserved, from before its first byte to its end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError

from app.store import quotas, reservations
from app.store.db import writing
from app.store.storage import Storage

TOLD_SECONDS = 5.0
"""How often an upload says how much is still to come."""


class Room:
    """What an upload may still write: `took` says how much of it has been."""

    def __init__(self, storage: Storage, team: str, needed: int) -> None:
        self.storage, self.team, self.left = storage, team, needed
        self.told = time.monotonic()
        self.reservation = ""

    def reserve(self) -> None:
        """Reserve it. Raises StorageFull, BytesQuotaExceeded."""
        with writing() as session:
            quotas.admit_arriving(session, self.team, self.left)
            reservations.hold_room(session)
            self.reservation = reservations.reserve(session, self.team, self.left, self.storage.free_bytes())

    def renew(self) -> None:
        """Say how much is still to come; where that took too long, reserve anew. Raises what `reserve` does."""
        with writing() as session:
            mine = reservations.renew(session, self.reservation, self.left)
        if not mine:
            self.reserve()

    def release(self) -> None:
        """Give the rest back."""
        with writing() as session:
            reservations.release(session, self.reservation)

    async def took(self, size: int) -> None:
        """Note that bytes came."""
        self.left = max(0, self.left - size)
        if time.monotonic() - self.told >= TOLD_SECONDS:
            self.told = time.monotonic()
            await asyncio.to_thread(self.renew)


@asynccontextmanager
async def room(storage: Storage, team: str, needed: int) -> AsyncIterator[Room]:
    """Have room for so many bytes. Raises StorageFull, BytesQuotaExceeded."""
    held = Room(storage, team, needed)
    await asyncio.to_thread(held.reserve)
    try:
        yield held
    finally:
        with suppress(SQLAlchemyError):  # then it ends by itself
            await asyncio.shield(asyncio.to_thread(held.release))
