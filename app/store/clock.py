"""Time comes from the database: leases are compared by one clock, whatever the hosts' clocks say."""

import datetime as dt
from typing import Any

from sqlalchemy import DateTime, Dialect, Float, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[dt.datetime]):
    """An aware UTC time. SQLite stores it as text that sorts chronologically."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Convert to UTC; reject naive times, which are ambiguous."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002
        """Return aware times on both databases."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class now(FunctionElement[dt.datetime]):  # noqa: N801 (it is a function of the database)
    """`now()` or `now(seconds)`: the database's wall clock plus so many seconds.

    Not the transaction's start (PostgreSQL's now()), so that a lease written late in a long transaction is not short.
    """

    type = UtcTime()
    inherit_cache = True

    def __init__(self, seconds: Any = 0.0) -> None:
        super().__init__(seconds if hasattr(seconds, "compile") else literal(float(seconds), Float()))


@compiles(now, "postgresql")
def _postgresql(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(now, "sqlite")
def _sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    # Padded to microseconds, as SQLAlchemy writes times, so that comparing text compares times.
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {seconds}))"


class seconds_between(FunctionElement[float]):  # noqa: N801 (it is a function of the database)
    """Seconds from one time to another."""

    type = Float()
    inherit_cache = True


@compiles(seconds_between, "postgresql")
def _between_postgresql(element: seconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    first, last = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"EXTRACT(EPOCH FROM ({last} - {first}))"


@compiles(seconds_between, "sqlite")
def _between_sqlite(element: seconds_between, compiler: SQLCompiler, **kw: Any) -> str:
    first, last = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"((julianday({last}) - julianday({first})) * 86400.0)"
