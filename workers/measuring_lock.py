"""The host's measuring lock, which a worker takes for its engine: no engine opens it, and none keeps it too long."""

import fcntl
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from app.core.settings import Settings
from compression.system.host_lock import GRANTED

log = structlog.get_logger()
REQUEST_FILE = ".measure"
"""The file in an engine's folder that the engine locks to request the measuring lock."""
POLL_SECONDS = 0.1
GAP_SECONDS = 2.0
"""Time for others to take the lock before an engine that kept it too long may have it again."""


class MeasuringLock(threading.Thread):
    """Holds the host's lock while the engine in `folder` requests it. Use as a context manager."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(name="measuring", daemon=True)
        self.asks, self.granted = folder / REQUEST_FILE, folder / (REQUEST_FILE + GRANTED)
        self.lock = settings.scratch / "measure.lock"
        self.longest = settings.measure_hold_seconds
        self.over = threading.Event()
        self.held: int | None = None
        self.since = self.not_before = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock, and end."""
        self.over.set()
        self.join()

    def run(self) -> None:
        """Check the request until the engine is over."""
        try:
            while not self.over.wait(POLL_SECONDS):
                self._check_request()
        finally:
            self._release()

    def _check_request(self) -> None:
        now = time.monotonic()
        if not self._is_requested():
            self._release()
        elif self.held is None:
            if now >= self.not_before:
                self._take(now)
        elif now - self.since > self.longest:
            log.warning("measuring_lock_taken_back", folder=str(self.asks.parent), seconds=round(now - self.since))
            self._release()
            self.not_before = now + GAP_SECONDS

    def _is_requested(self) -> bool:
        """Return whether a process of the engine has locked its file; anything else in its place requests nothing."""
        try:
            file = os.open(self.asks, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def _take(self, now: float) -> None:
        """Take the lock if it is free, and report that in the engine's folder."""
        self.lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return
        self.held, self.since = lock, now
        with suppress(OSError):  # then the engine waits in vain, and reports that it was not alone
            self.granted.unlink()
        with suppress(OSError):
            os.close(os.open(self.granted, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def _release(self) -> None:
        if self.held is None:
            return
        with suppress(OSError):
            self.granted.unlink()
        os.close(self.held)
        self.held = None
