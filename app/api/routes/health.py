"""/healthz: whether the process is alive, and whether it can do its work. No key needed."""

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
"""Identifies this process in its test writes."""


class LiveOut(Out):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyOut(Out):
    """Whether the process can do its work, and the result for database and storage."""

    status: Literal["ok", "unavailable"]
    database: str
    storage: str


@router.get("/live")
async def live() -> LiveOut:
    """Answer as long as the event loop runs."""
    return LiveOut()


class _Ready:
    """Tests a write to each, at most once per second, however many ask: a full or read-only disk still answers reads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tried, self.found = 0.0, dict[str, str]()

    def check(self, storage: Storage) -> dict[str, str]:
        """Return the last results for database and storage."""
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
    """Return whether database and storage accept writes. The broker is not checked: jobs are accepted without it."""
    found = await asyncio.to_thread(_ready.check, storage)
    fine = all(value == "ok" for value in found.values())
    return JSONResponse({"status": "ok" if fine else "unavailable", **found}, 200 if fine else 503)
