"""One writer at a time in this process, in order of arrival, since SQLite lets waiting writers retry at random.

SQLite has one writer at a time; a waiting one sleeps and retries, each time for longer, so that one of twenty always waits for
seconds. Here writers queue. Only if the writer is in another process do they still retry.
"""

import sqlite3
import threading
from collections import deque
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

PATIENCE_SECONDS = 10.0
"""After this time in the queue a writer is told that the database does not answer: 503 with Retry-After."""
MOST_WAITING = 200
"""Writers in the queue; another one gets that answer at once, while its client still waits."""
_TURN = "lathe_turn"


class WriteQueue:
    """A lock that goes to the one who waits longest, and that any thread may release."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.busy = False
        self.line: deque[threading.Event] = deque()

    def take(self) -> None:
        """Wait in the queue. Raises OperationalError if the queue or the wait is too long."""
        mine = threading.Event()
        with self.lock:
            if not self.busy:
                self.busy = True
                return
            if len(self.line) >= MOST_WAITING:
                raise _busy(f"{len(self.line)} writers wait")
            self.line.append(mine)
        if mine.wait(PATIENCE_SECONDS):
            return
        with self.lock:
            if mine.is_set():  # it was set at the last moment
                return
            self.line.remove(mine)
        raise _busy(f"no write was possible within {PATIENCE_SECONDS:g} seconds")

    def release_next(self) -> None:
        """Let the next one write."""
        with self.lock:
            if self.line:
                self.line.popleft().set()
            else:
                self.busy = False


def _busy(why: str) -> OperationalError:
    return OperationalError("BEGIN IMMEDIATE", {}, sqlite3.OperationalError(f"database is busy: {why}"))


def queue_writers(engine: Engine) -> None:
    """Make an engine's writers queue, each from its BEGIN until its connection is back in the pool."""
    turns = WriteQueue()

    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later cannot wait for SQLite's write lock, so a writer says so at BEGIN.
        if connection.get_execution_options().get("lathe_read_only"):
            connection.exec_driver_sql("BEGIN")
            return
        if not connection.info.get(_TURN):
            turns.take()
            connection.info[_TURN] = True
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def back(_connection: Any, record: Any, *_: Any) -> None:
        if record.info.pop(_TURN, False):
            turns.release_next()

    event.listen(engine, "begin", begin)
    for how in ("checkin", "invalidate", "soft_invalidate"):
        event.listen(engine, how, back)
