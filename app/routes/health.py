"""/healthz: is the process alive, and can it do its work? No key needed."""

import asyncio
import datetime as dt
import io
import secrets
import threading
import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.db import reading, writing
from app.deps import StorageDep
from app.models import Leader
from app.storage import Storage

router = APIRouter(prefix="/healthz", tags=["health"])
FRESH_SECONDS = 1.0
HOLDER = secrets.token_hex(8)
"""This process, in what it writes to see whether it can."""


@router.get("/live")
async def live() -> dict[str, str]:
    """Say that the event loop turns."""
    return {"status": "ok"}


class _Ready:
    """Tries a write to each, at most once a second, however many ask: a disk that is full or read-only answers reads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tried, self.found = 0.0, dict[str, str]()

    def check(self, storage: Storage) -> dict[str, str]:
        """Return what database and storage last said."""
        with self.lock:
            if not self.found or time.monotonic() - self.tried >= FRESH_SECONDS:
                self.found = {"database": _database(), "storage": _storage(storage)}
                self.tried = time.monotonic()
            return dict(self.found)


_ready = _Ready()


def _database() -> str:
    try:
        with reading() as session:
            session.execute(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError as error:
        return f"away, or not migrated (python -m app.bootstrap): {type(error).__name__}"
    try:
        with writing() as session:
            session.merge(Leader(office="readiness", holder=HOLDER, until=dt.datetime.now(dt.UTC)))
    except SQLAlchemyError as error:
        return f"takes no write: {type(error).__name__}"
    return "ok"


def _storage(storage: Storage) -> str:
    key = f".health/{HOLDER}"
    try:
        storage.put_file(key, io.BytesIO(bytes(4096)))
        storage.delete(key)
    except Exception as error:  # any failure of any storage means the same here
        return f"takes no write: {type(error).__name__}"
    return "ok"


@router.get("/ready")
async def ready(storage: StorageDep) -> Any:
    """Say whether database and storage take a write. The broker is not asked: jobs are accepted without it."""
    found = await asyncio.to_thread(_ready.check, storage)
    fine = all(value == "ok" for value in found.values())
    return JSONResponse({"status": "ok" if fine else "unavailable", **found}, 200 if fine else 503)
