"""Writers on SQLite stand in line."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
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


def write(engine: Engine, who: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO told VALUES (:who)"), {"who": who})


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
    threads = [threading.Thread(target=write, args=(engine, who)) for who in range(12)]
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO told VALUES (-1)"))
        for number, thread in enumerate(threads):
            thread.start()
            wait_for(lambda number=number: len(line()) == number + 1, every=0.01)  # type: ignore[misc]
        with engine.connect().execution_options(**READ_ONLY) as reader:  # and nobody who reads waits for them
            assert reader.execute(text("SELECT count(*) FROM told")).scalar() == 0
    for thread in threads:
        thread.join(60)
    with engine.connect() as connection:
        order = connection.execute(text("SELECT who FROM told ORDER BY rowid")).scalars().all()
    assert order == [-1, *range(12)]


def test_a_line_that_is_too_long_is_said_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "MOST_WAITING", 1)
    line = watched(monkeypatch)
    patient = threading.Thread(target=write, args=(engine, 1))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO told VALUES (0)"))
        patient.start()
        wait_for(line, every=0.01)
        with pytest.raises(OperationalError, match="1 writers wait"):
            write(engine, 2)
    patient.join(60)
    write(engine, 3)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT who FROM told ORDER BY rowid")).scalars().all() == [0, 1, 3]


def test_who_waits_too_long_is_told_so_and_leaves_the_line(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "PATIENCE_SECONDS", 0.1)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO told VALUES (0)"))
        with pytest.raises(OperationalError, match="no write was possible"):
            write(engine, 1)
    write(engine, 2)  # nobody waits for the one that left
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        connection.execute(text("INSERT INTO told VALUES (3)"))
        raise ZeroDivisionError
    write(engine, 4)  # nor for one that failed
    with engine.connect() as connection:
        assert connection.execute(text("SELECT who FROM told ORDER BY rowid")).scalars().all() == [0, 2, 4]
