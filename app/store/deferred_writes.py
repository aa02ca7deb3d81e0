"""Small writes that no request waits for, such as a key's last use: at most one per minute and name, in a separate thread."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger()
INTERVAL_SECONDS = 60.0
MOST_NAMES = 10_000
"""Names whose last write is remembered; beyond that, names older than a minute are dropped."""


class DeferredWrites:
    """Runs a write unless one of the same name ran in the last minute. A failed write only loses its own row."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="deferred-writes")
        self.lock = threading.Lock()
        self.last: dict[tuple[str, ...], float] = {}

    def submit(self, name: tuple[str, ...], write: Callable[[], None]) -> None:
        """Queue a write, or skip it."""
        moment = time.monotonic()
        with self.lock:
            if moment - self.last.get(name, -INTERVAL_SECONDS) < INTERVAL_SECONDS:
                return
            if len(self.last) >= MOST_NAMES:
                self.last = {known: at for known, at in self.last.items() if moment - at < INTERVAL_SECONDS}
            self.last[name] = moment
        self.thread.submit(self._run, write)

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except SQLAlchemyError as error:
            log.warning("deferred_write_failed", error=str(error))


deferred_writes = DeferredWrites()
