"""One writer at a time in this process, in the order in which they come: SQLite itself lets who waits try again at random.

SQLite has one writer at a time, and who finds it at work sleeps and tries again, each time for longer: of twenty, somebody is
always the unlucky one, for seconds. Here they stand in line. Only where the writer is another process do they still try.
"""

import sqlite3
import threading
from collections import deque
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

PATIENCE_SECONDS = 10.0
"""After which a writer in the line is told that the database does not answer: 503, with Retry-After."""
MOST_WAITING = 200
"""Writers in the line; one more is told so at once, while its sender still listens."""
_TURN = "lathe_turn"


class WriteQueue:
    """A lock that is given to the one who waits longest, and that any thread may give back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.busy = False
        self.line: deque[threading.Event] = deque()

    def take(self) -> None:
        """Wait for one's turn. Raises OperationalError where the line is too long or takes too long."""
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
            if mine.is_set():  # it came at the last moment
                return
            self.line.remove(mine)
        raise _busy(f"no turn to write came in {PATIENCE_SECONDS:g} seconds")

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
    """Have an engine's writers stand in line, each from its BEGIN until its connection is back in the pool."""
    turns = WriteQueue()

    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later cannot wait for its turn in SQLite; one that writes says so at once.
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
