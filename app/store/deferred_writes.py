"""Small writes that no request waits for, such as a key's last use: at most one a minute of a name, in their own thread."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger()
INTERVAL_SECONDS = 60.0
MOST_NAMES = 10_000
"""Of which the last time is known; beyond that those of over a minute ago are forgotten."""


class DeferredWrites:
    """Runs a write unless one of the same name ran within the last minute. One that fails costs its own row only."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="scribe")
        self.lock = threading.Lock()
        self.last: dict[tuple[str, ...], float] = {}

    def submit(self, name: tuple[str, ...], write: Callable[[], None]) -> None:
        """Write in a moment, or not at all."""
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
            log.warning("scribe_failed", error=str(error))


deferred_writes = DeferredWrites()
