"""What a job may take of its machine: memory while it runs, and room on the disks before it starts."""

import contextlib
import errno
import fcntl
import os
import platform
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
from workers.folders import RESERVED

SHARE = 0.9
"""Of the machine's memory that an engine may take: the rest is the worker's and the system's."""
SPARE_BYTES = 32 << 20
"""Bytes of disk that stay free whatever jobs ask for."""
BLOCK = 4096
"""Bytes."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class InsufficientDisk(Exception):
    """A disk cannot take what the job is expected to write."""


def machine_memory() -> int:
    """Return the bytes of memory that this machine has, or this container may take."""
    total: int = psutil.virtual_memory().total
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return total
    return min(total, int(most)) if most.isdigit() else total


def list_devices(drivers: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Name this machine's GPUs, as their driver does, or its processor where there is none. No torch is loaded for that."""
    found = []
    for about in sorted(drivers.glob("*/information")):
        lines = about.read_text(errors="replace").splitlines()
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return found or [f"CPU ({platform.machine()})"]


def augmentation(settings: Settings) -> dict[str, Any]:
    """Say what recipes may name here to make more rows with: word lists, models and pairs of languages."""
    folder = settings.helper_models
    models = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder is not None and folder.is_dir() else []
    program = which("apertium")
    told = subprocess.run([program, "-l"], capture_output=True, text=True, check=False).stdout if program else ""
    return {"wordnet": settings.wordnet is not None, "helper_models": models, "apertium": sorted(told.split())}


def lm_eval(settings: Settings) -> dict[str, Any]:
    """Say whether jobs may ask lm-eval's tasks here: the package's version, and whether there is a folder of data."""
    try:
        found: str | None = version("lm_eval")
    except PackageNotFoundError:
        found = None
    return {"version": found, "data": settings.lm_eval_data is not None and settings.lm_eval_data.is_dir()}


def engine_memory(settings: Settings) -> int:
    """Return the resident bytes beyond which an engine is stopped; no job is taken whose forecast is above."""
    return settings.engine_memory_bytes or round(SHARE * machine_memory())


def engine_disk(settings: Settings, needed: int) -> int:
    """Return the bytes beyond which an engine that was forecast to write `needed` is stopped: a forecast may be wrong."""
    return 2 * needed + settings.engine_disk_bytes


@contextlib.contextmanager
def reserve_disk(scratch: Path, folder: Path, storage: Storage, needed: int, fetched: int = 0) -> Iterator[None]:
    """Set `needed` bytes of the scratch disk aside for a job's folder while the context lasts, beside what is `fetched` first.

    What other jobs of this host were promised and have not written yet counts as taken. Raises NoRoom.
    """
    promise = folder.with_name(folder.name + RESERVED)
    with (scratch / ".reserve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        promised = sum(_outstanding(other) for other in scratch.glob(f"*{RESERVED}") if other != promise)
        free = disk_usage(scratch).free - promised
        if free < needed + fetched + SPARE_BYTES:
            raise InsufficientDisk(f"The job needs {needed + fetched:,} bytes of scratch, {max(free, 0):,} are free.")
        left = storage.free_bytes()
        if left is not None and left < needed + SPARE_BYTES:
            raise InsufficientDisk(f"The job needs up to {needed:,} bytes of storage, {left:,} are free.")
        promise.write_text(str(needed + fetched), "ascii")
    try:
        yield
    finally:
        promise.unlink(missing_ok=True)


def _outstanding(promise: Path) -> int:
    """Bytes that a folder was promised beyond those that it has taken. What is no promise of this disk counts as none."""
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
        return promised  # what it has taken cannot be seen


def _short_text(path: Path) -> str:
    """Read the first bytes of a plain file, and wait for nothing. Raises OSError, ValueError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path.name} is not a plain file")
        return os.read(handle, 32).decode("ascii")
    finally:
        os.close(handle)


def taken_bytes(folder: Path, most: int) -> int:
    """Sum the disk blocks of all that lies in a folder, following no link; ends once it is more than `most`.

    What goes meanwhile does not count. A file counts as a block at least, so that a folder of empty ones comes to an end too.
    Raises OSError for a folder that cannot be looked through.
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
