"""Limits of a job on its machine: memory while it runs, and disk space before it starts."""

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import disk_usage, which
from typing import Any

import psutil

from app.core.settings import Settings
from app.store.storage import Storage
from compression.system.processor import usable_cores
from workers.folders import RESERVED

SHARE = 0.9
"""Share of the machine's memory that its engines may use; the rest is for the worker and the system."""
SPARE_BYTES = 32 << 20
"""Bytes of disk that always stay free."""
BLOCK = 4096
"""Bytes."""
DISK_SHARE = 0.05
"""Share of a worker's time that looking through an engine's folder may take."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class InsufficientDisk(Exception):
    """A disk cannot hold what the job is expected to write.

    shared: whether it is the storage, which is the same for all workers. full: whether it has no room for any other job either.
    """

    def __init__(self, cause: str, *, shared: bool, full: bool) -> None:
        super().__init__(cause)
        self.shared, self.full = shared, full


def machine_memory() -> int:
    """Return the memory of this machine, or the limit of this container, in bytes."""
    total: int = psutil.virtual_memory().total
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return total
    return min(total, int(most)) if most.isdigit() else total


def augmentation(settings: Settings) -> dict[str, Any]:
    """Return the resources for augmentation that recipes may name here: word lists, models and language pairs."""
    folder = settings.helper_models
    models = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder is not None and folder.is_dir() else []
    program = which("apertium")
    output = subprocess.run([program, "-l"], capture_output=True, text=True, check=False).stdout if program else ""
    return {"wordnet": settings.wordnet is not None, "helper_models": models, "apertium": sorted(output.split())}


def lm_eval(settings: Settings) -> dict[str, Any]:
    """Return whether jobs may use lm-eval here: the package's version, and whether there is a data folder."""
    try:
        found: str | None = version("lm_eval")
    except PackageNotFoundError:
        found = None
    return {"version": found, "data": settings.lm_eval_data is not None and settings.lm_eval_data.is_dir()}


def engine_threads(settings: Settings) -> int:
    """Return the training threads of an engine. The worker counts the cores: an engine does not see its control groups."""
    return settings.engine_threads or usable_cores()


def engine_memory(settings: Settings) -> int:
    """Return the resident bytes above which an engine is stopped; a job with a higher forecast is not claimed."""
    return settings.engine_memory_bytes or round(SHARE * machine_memory() / settings.host_workers)


def engine_disk(settings: Settings, needed: int) -> int:
    """Return the bytes of kept files above which an engine with a forecast of `needed` is stopped: a forecast may be wrong."""
    return 2 * needed + settings.engine_disk_bytes


@contextlib.contextmanager
def reserve_disk(
    scratch: Path, folder: Path, storage: Storage | None, needed: int, fetched: int = 0, most_cached: int = 0
) -> Iterator[int]:
    """Reserve `needed` bytes of the scratch disk for a job's folder within the context, besides what is `fetched` first.

    storage: what keeps the job's results, if there will be any.

    Yields the bytes that are reserved besides for teachers' outputs: half of what is then free, and `most_cached` at most. The
    job runs without them too, so they are not demanded. What other jobs of this host have reserved and not written yet counts
    as used. Raises InsufficientDisk.
    """
    promise = folder.with_name(folder.name + RESERVED)
    with (scratch / ".reserve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        promised = sum(_outstanding(other) for other in scratch.glob(f"*{RESERVED}") if other != promise)
        free = disk_usage(scratch).free - promised
        if free < needed + fetched + SPARE_BYTES:
            cause = f"{needed + fetched:,} bytes of scratch are needed, {max(free, 0):,} are free."
            raise InsufficientDisk(cause, shared=False, full=free < SPARE_BYTES)
        left = None if storage is None else storage.free_bytes()
        if left is not None and left < needed + SPARE_BYTES:
            cause = f"The job needs up to {needed:,} bytes of storage, {left:,} are free."
            raise InsufficientDisk(cause, shared=True, full=left < SPARE_BYTES)
        cached = max(min(most_cached, (free - needed - fetched - SPARE_BYTES) // 2), 0)
        promise.write_text(str(needed + fetched + cached), "ascii")
    try:
        yield cached
    finally:
        promise.unlink(missing_ok=True)


def _outstanding(promise: Path) -> int:
    """Return the bytes that a folder has reserved and not used yet; 0 for an invalid reservation."""
    folder = promise.with_name(promise.name.removesuffix(RESERVED))
    try:
        promised = int(_short_text(promise))
        if not (folder.is_dir() and 0 <= promised <= disk_usage(folder).total):
            return 0
    except (OSError, ValueError):
        return 0  # ended meanwhile
    try:
        return max(promised - taken_bytes(folder, promised), 0)
    except OSError:
        return promised  # its used space is unreadable


def _short_text(path: Path) -> str:
    """Read the first bytes of a plain file without blocking. Raises OSError, ValueError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path.name} is not a plain file")
        return os.read(handle, 32).decode("ascii")
    finally:
        os.close(handle)


def taken_bytes(folder: Path, most: int) -> int:
    """Return the disk space of all files in a folder, following no link; stop once it exceeds `most`.

    Files that disappear meanwhile do not count. Each file counts as at least one block, so that many empty files end the
    search, too. Raises OSError for a folder that cannot be read.
    """
    taken, folders = 0, [str(folder)]
    while folders and taken <= most:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    taken += max(entry.stat(follow_symlinks=False).st_blocks * 512, BLOCK)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                if taken > most:
                    break
    return taken
