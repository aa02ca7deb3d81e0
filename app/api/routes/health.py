"""/healthz: whether the process is alive, and whether it can do its work. No key needed."""

import asyncio
import contextlib
import datetime as dt
import io
import secrets
import time
from collections.abc import Callable
from functools import partial
from threading import Thread
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
ANSWER_SECONDS = 4.0
"""After this time a part is said not to answer: probes themselves wait about five seconds. obstore would try for minutes."""
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


class _Test:
    """A write to each part, in threads of their own: one that hangs takes no other part's and no other request's thread."""

    def __init__(self, storage: Storage) -> None:
        self.begun = time.monotonic()
        self.found: dict[str, str] = {}
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        self.parts: dict[str, Callable[[], str]] = {"database": _database, "storage": partial(_storage, storage)}
        self.threads = [Thread(target=self._run, args=(part,), name="readiness", daemon=True) for part in self.parts]
        for thread in self.threads:
            thread.start()

    def _run(self, part: str) -> None:
        self.found[part] = self.parts[part]()
        if len(self.found) == len(self.parts):
            with contextlib.suppress(RuntimeError):  # the process stops, and nobody waits any more
                self.loop.call_soon_threadsafe(self.ended.set)

    @property
    def is_over(self) -> bool:
        """Return whether no part is asked any more."""
        return not any(thread.is_alive() for thread in self.threads)

    async def result(self) -> dict[str, str]:
        """Return the result for each part once they are there, or what is there after a while."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), self.begun + ANSWER_SECONDS - time.monotonic())
        silent = f"no answer within {ANSWER_SECONDS:g} seconds"
        return {part: self.found.get(part, silent) for part in self.parts}


class _Ready:
    """Tests at most once per second and one at a time, however many ask."""

    def __init__(self) -> None:
        self.last: _Test | None = None

    async def check(self, storage: Storage) -> dict[str, str]:
        """Return the last results for database and storage. Call it on the event loop."""
        if self.last is None or (self.last.is_over and time.monotonic() - self.last.begun >= FRESH_SECONDS):
            self.last = _Test(storage)
        return await self.last.result()


_ready = _Ready()


def _database() -> str:
    try:
        with reading() as session:
            session.execute(text("SELECT version_num FROM alembic_version"))
    except (SQLAlchemyError, OSError) as error:
        return f"away, or not migrated (python -m app.bootstrap): {type(error).__name__}"
    try:
        with writing() as session:
            session.merge(Leader(office="readiness", holder=HOLDER, until=dt.datetime.now(dt.UTC)))
    except (SQLAlchemyError, OSError) as error:
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
    found = await _ready.check(storage)
    fine = all(value == "ok" for value in found.values())
    return JSONResponse({"status": "ok" if fine else "unavailable", **found}, 200 if fine else 503)
