"""/healthz: is the process alive, and can it do its work? No key needed."""

import asyncio
import datetime as dt
import io
import secrets
import threading
import time
from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.api.dependencies import StorageDep
from app.core.schemas import Out
from app.store.db import reading, writing
from app.store.models import Leader
from app.store.storage import Storage

router = APIRouter(prefix="/healthz", tags=["health"])
FRESH_SECONDS = 1.0
HOLDER = secrets.token_hex(8)
"""This process, in what it writes to see whether it can."""


class LiveOut(Out):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyOut(Out):
    """Whether the process can do its work, and what database and storage said."""

    status: Literal["ok", "unavailable"]
    database: str
    storage: str


@router.get("/live")
async def live() -> LiveOut:
    """Say that the event loop turns."""
    return LiveOut()


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


@router.get("/ready", response_model=ReadyOut, responses={503: {"model": ReadyOut}})
async def ready(storage: StorageDep) -> Response:
    """Say whether database and storage take a write. The broker is not asked: jobs are accepted without it."""
    found = await asyncio.to_thread(_ready.check, storage)
    fine = all(value == "ok" for value in found.values())
    return JSONResponse({"status": "ok" if fine else "unavailable", **found}, 200 if fine else 503)
