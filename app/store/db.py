"""Database engines and sessions, synchronous for both API and workers."""

import datetime as dt
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

from app.core import crash_points
from app.core.settings import get_settings
from app.store import write_queue

READ_ONLY = {"lathe_read_only": True}
PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,
}
"""Detect a PostgreSQL that vanished silently well within a lease. Seconds; the last one is in milliseconds."""
SQLITE_POOL = {"pool_size": 20, "max_overflow": 60}
"""For a database file: more connections than threads, so that a reader never waits for the connection of a waiting writer."""
IDLE_SECONDS = 20
"""PostgreSQL ends a transaction that is idle for so long. Ours wait only for the database, so an idle one belongs to a process
that is suspended or cut off; its locks would block the job for hours, until TCP closes the connection."""


def make_engine(url: str, idle_seconds: int = IDLE_SECONDS) -> Engine:
    """Open PostgreSQL (psycopg 3) or SQLite (WAL, full sync: a 202 must survive a power cut)."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, json_serializer=_dump, hide_parameters=True, connect_args={"timeout": 30}, **SQLITE_POOL)
        event.listen(engine, "connect", _prepare_sqlite)
        write_queue.queue_writers(engine)
        return engine
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(
        parsed,
        json_serializer=_dump,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        connect_args=PATIENCE,
    )

    def limit_idling(connection: Any, _record: Any) -> None:
        connection.execute(f"SET idle_in_transaction_session_timeout = '{idle_seconds}s'")
        connection.commit()

    event.listen(engine, "connect", limit_idling)
    return engine


_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def _dump(value: Any) -> str:
    # PostgreSQL stores no NUL. A worker's message about an uploaded file may contain one, and must be stored all the same.
    return _NUL.sub("\\1\ufffd", json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves, below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


@lru_cache
def get_engine() -> Engine:
    """Return this process's engine. A forked process creates its own."""
    return make_engine(get_settings().database_url)


def get_session() -> Iterator[Session]:
    """Yield a request's transaction. FastAPI must close it before the response is sent: `Depends(..., scope="function")`."""
    with Session(get_engine()) as session:
        with session.begin():
            yield session
            crash_points.reach("api_before_commit")
        crash_points.reach("api_after_commit")


def get_read_session() -> Iterator[Session]:
    """Yield a read-only session for requests that change nothing."""
    with reading() as session:
        yield session


@contextmanager
def writing() -> Iterator[Session]:
    """Yield a transaction that may write; it commits at the end and rolls back on an error."""
    with Session(get_engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading() -> Iterator[Session]:
    """Yield a read-only transaction, which takes no write lock on SQLite."""
    with Session(get_engine().execution_options(**READ_ONLY), expire_on_commit=False) as session:
        yield session


def iso(value: dt.datetime | None) -> str | None:
    """Format a time as the API shows it."""
    return value.isoformat().replace("+00:00", "Z") if value else None
