"""Engines and sessions, the same synchronous form for API and workers."""

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
"""A PostgreSQL that is gone without a word is noticed well within a lease: seconds, the last one milliseconds."""
SQLITE_POOL = {"pool_size": 20, "max_overflow": 60}
"""Of a file: more than there are threads, so that who reads never waits for a connection of those who wait to write."""
IDLE_SECONDS = 20
"""PostgreSQL ends a transaction of ours that says nothing for so long. None waits for anything but the database, so its process
stands still or is cut off; its locks would keep the job from everybody else until TCP gives the connection up, after hours."""


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
    # PostgreSQL keeps no NUL. One can still come with what a worker tells of a stranger's files; it must not undo the telling.
    return _NUL.sub("\\1\ufffd", json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


@lru_cache
def get_engine() -> Engine:
    """Return this process's engine. Processes that fork make theirs after it."""
    return make_engine(get_settings().database_url)


def get_session() -> Iterator[Session]:
    """One request, one transaction. FastAPI must close it before the answer leaves: `Depends(..., scope="function")`."""
    with Session(get_engine()) as session:
        with session.begin():
            yield session
            crash_points.reach("api_before_commit")
        crash_points.reach("api_after_commit")


def get_read_session() -> Iterator[Session]:
    """For requests that change nothing."""
    with reading() as session:
        yield session


@contextmanager
def writing() -> Iterator[Session]:
    """One transaction that may write; commits at the end, rolls back on an error."""
    with Session(get_engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading() -> Iterator[Session]:
    """One transaction that only reads, and takes no write lock on SQLite."""
    with Session(get_engine().execution_options(**READ_ONLY), expire_on_commit=False) as session:
        yield session


def iso(value: dt.datetime | None) -> str | None:
    """Write a time as the API shows it."""
    return value.isoformat().replace("+00:00", "Z") if value else None
