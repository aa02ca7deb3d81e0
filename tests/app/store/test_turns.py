"""Writers on SQLite stand in line."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from app.store import write_queue
from app.store.db import READ_ONLY, make_engine
from tests.conftest import wait_for


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE told (who INTEGER)"))
    yield made
    made.dispose()


INSERT = text("INSERT INTO told VALUES (:who)")


def write(engine: Engine, who: int) -> None:
    with engine.begin() as connection:
        connection.execute(INSERT, {"who": who})


def told(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT who FROM told ORDER BY rowid")).scalars())


def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], deque[threading.Event]]:
    """Returns what says who stands in line once somebody wrote."""
    found: list[write_queue.WriteQueue] = []
    took = write_queue.WriteQueue.take

    def take(self: write_queue.WriteQueue) -> None:
        found.append(self)
        took(self)

    monkeypatch.setattr(write_queue.WriteQueue, "take", take)
    return lambda: found[0].line


def test_writers_come_in_the_order_in_which_they_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    line = watched(monkeypatch)
    with ThreadPoolExecutor(12) as pool, engine.begin() as connection:
        connection.execute(INSERT, {"who": -1})
        for number in range(12):
            pool.submit(write, engine, number)
            wait_for(lambda number=number: len(line()) == number + 1, every=0.01)  # type: ignore[misc]
        with engine.connect().execution_options(**READ_ONLY) as reader:  # and nobody who reads waits for them
            assert reader.execute(text("SELECT count(*) FROM told")).scalar() == 0
    assert told(engine) == [-1, *range(12)]


def test_a_line_that_is_too_long_is_said_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "MOST_WAITING", 1)
    line = watched(monkeypatch)
    with ThreadPoolExecutor(1) as pool, engine.begin() as connection:
        connection.execute(INSERT, {"who": 0})
        pool.submit(write, engine, 1)
        wait_for(line, every=0.01)
        with pytest.raises(OperationalError, match="1 writers wait"):
            write(engine, 2)
    write(engine, 3)
    assert told(engine) == [0, 1, 3]


def test_who_waits_too_long_is_told_so_and_leaves_the_line(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "PATIENCE_SECONDS", 0.1)
    with engine.begin() as connection:
        connection.execute(INSERT, {"who": 0})
        with pytest.raises(OperationalError, match="no write was possible"):
            write(engine, 1)
    write(engine, 2)  # nobody waits for the one that left
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        connection.execute(INSERT, {"who": 3})
        raise ZeroDivisionError
    write(engine, 4)  # nor for one that failed
    assert told(engine) == [0, 2, 4]
