"""One job at a time is timed on a host: whose turn it is, and whether a turn was had alone. Torch-free.

Under a worker the engine holds nothing that others wait for. It locks a file of its own folder while it asks, the worker takes
the host's lock for it, for a bounded time, and lays a second file beside the first one while it holds that. Elsewhere the
processes of one host share a file.
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
"""Behind the name of the file that asks, the name of the one that says yes."""
WAIT_SECONDS = 900.0
POLL_SECONDS = 0.05


@dataclass
class Turn:
    """What is timed while the host's lock is held, or in spite of those who hold it."""

    exclusive: bool
    """Whether no other job was timed meanwhile; final once the lock has been let go."""


@contextmanager
def host_lock() -> Iterator[Turn]:
    """Wait until no other job on this host is timing, but no longer than LATHE_MEASURE_WAIT_SECONDS.

    The kernel frees the lock when the process ends, however it ends.
    """
    deadline = time.monotonic() + float(os.environ.get(WAIT_VARIABLE) or WAIT_SECONDS)
    asked = os.environ.get(TURN_VARIABLE)
    path = asked or os.environ.get(LOCK_VARIABLE) or str(Path(tempfile.gettempdir()) / "lathe-measure.lock")
    # O_CREAT alone in a shared folder would follow a link that somebody else laid there.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        turn = Turn(_locked(descriptor, deadline))
        if not asked:
            yield turn
            return
        granted = Path(asked + GRANTED)
        while (grant := _identity(granted)) is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        turn.exclusive = turn.exclusive and grant is not None
        yield turn
        turn.exclusive = turn.exclusive and _identity(granted) == grant
    finally:
        os.close(descriptor)


def _locked(descriptor: int, deadline: float) -> bool:
    """Lock a file before the deadline, if that can be; say whether it could."""
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
    """Tell one grant from the next: one that was taken back may have been given again."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
