"""What a job may take of its machine: memory while it runs, and room on the disks before it starts."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

import psutil

from app.settings import Settings
from app.storage import Storage

SHARE = 0.9
"""Of the machine's memory that an engine may take: the rest is the worker's and the system's."""
TO_SPARE = 32 << 20
"""Bytes of disk that stay free whatever jobs ask for."""
RESERVED = ".reserved"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoRoom(Exception):
    """A disk cannot take what the job is expected to write."""


def machine_memory() -> int:
    """Return the bytes of memory that this machine has, or this container may take."""
    total: int = psutil.virtual_memory().total
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return total
    return min(total, int(most)) if most.isdigit() else total


def engine_memory(settings: Settings) -> int:
    """Return the resident bytes beyond which an engine is stopped."""
    return settings.engine_memory_bytes or round(SHARE * machine_memory())


def killed_for_memory() -> int:
    """Return how often the kernel has ended a process of this machine for want of memory; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


@contextmanager
def room(scratch: Path, folder: Path, storage: Storage, needed: int, fetched: int = 0) -> Iterator[None]:
    """Set `needed` bytes of the scratch disk aside for a job's folder while the context lasts, beside what is `fetched` first.

    What other jobs of this host were promised and have not written yet counts as taken. Raises NoRoom.
    """
    with (scratch / ".reserve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        promised = sum(_outstanding(other) for other in scratch.glob(f"*/{RESERVED}") if other.parent != folder)
        free = disk_usage(scratch).free - promised
        if free < needed + fetched + TO_SPARE:
            raise NoRoom(f"The job needs {needed + fetched:,} bytes of scratch, {max(free, 0):,} are free.")
        left = storage.free_bytes()
        if left is not None and left < needed + TO_SPARE:
            raise NoRoom(f"The job needs up to {needed:,} bytes of storage, {left:,} are free.")
        (folder / RESERVED).write_text(str(needed + fetched), "ascii")
    try:
        yield
    finally:
        (folder / RESERVED).unlink(missing_ok=True)


def _outstanding(promise: Path) -> int:
    """Bytes that a folder was promised beyond those that it has taken."""
    try:
        promised = int(promise.read_text("ascii"))
        taken = sum(path.lstat().st_blocks * 512 for path in promise.parent.rglob("*"))
    except (OSError, ValueError):
        return 0  # ended meanwhile
    return max(promised - taken, 0)
