"""The host's timing lock: one job is timed at a time; reports if a turn was exclusive. Torch-free.

Under a worker the engine locks a file in its own folder to request a turn. The worker takes the host's lock for it, for a
limited time, and creates a second file beside the first meanwhile. Without a worker the processes of a host share one.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOCK_VARIABLE, TURN_VARIABLE, WAIT_VARIABLE = "LATHE_MEASURE_LOCK", "LATHE_MEASURE_TURN", "LATHE_MEASURE_WAIT_SECONDS"
GRANTED = ".granted"
"""Suffix of the file that grants a turn, after the name of the file that requests it."""
WAIT_SECONDS = 900.0
POLL_SECONDS = 0.05


@dataclass
class Turn:
    """One timing: with the host's lock held, or without it if the wait ran out."""

    exclusive: bool  #: whether no other job was timed meanwhile; final once the lock is released


@contextmanager
def host_lock() -> Iterator[Turn]:
    """Wait for LATHE_MEASURE_WAIT_SECONDS at most until no other job is timing; the lock ends with the process."""
    deadline = time.monotonic() + float(os.environ.get(WAIT_VARIABLE) or WAIT_SECONDS)
    request = os.environ.get(TURN_VARIABLE)
    path = request or os.environ.get(LOCK_VARIABLE) or str(Path(tempfile.gettempdir()) / "lathe-measure.lock")
    # O_CREAT alone in a shared folder would follow a link that another user put there.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        turn = Turn(_locked(descriptor, deadline))
        if not request:
            yield turn
            return
        granted = Path(request + GRANTED)
        while (grant := _identity(granted)) is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        turn.exclusive = turn.exclusive and grant is not None
        yield turn
        turn.exclusive = turn.exclusive and _identity(granted) == grant
    finally:
        os.close(descriptor)


def _locked(descriptor: int, deadline: float) -> bool:
    """Try to lock a file until the deadline; return whether it succeeded."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what identifies a grant: one that was withdrawn may have been given again."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
