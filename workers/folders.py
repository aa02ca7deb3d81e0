"""The private folder of an attempt, and reading what a child wrote there without trusting the child."""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import psutil
import structlog

from workers.removal import remove_tree

log = structlog.get_logger()
LOCK, SWEEP_LOCK = ".held", ".door"
RESERVED = ".reserved"
"""Suffix of the file beside a folder that says how much space is reserved for it; children cannot reach that file."""


NO_LOCK = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES})
"""In the lock's place is nothing, a link, a socket, or something that no worker made. Other errors do not tell."""


class Untrustworthy(Exception):
    """A child's output does not match its events, or is not a plain file below its folder."""


@contextmanager
def private_folder(scratch: Path, name: str) -> Iterator[Path]:
    """Create scratch/name for this process, lock it while it is used, and remove it at the end."""
    folder = scratch / name
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        with _sweep_lock(scratch):
            remove_tree(folder)
            folder.mkdir(mode=0o700)
            stack.callback(_remove, folder)
            fcntl.flock(stack.enter_context((folder / LOCK).open("w")), fcntl.LOCK_EX)
        yield folder


@contextmanager
def _sweep_lock(scratch: Path) -> Iterator[None]:
    """Let one process at a time create or sweep folders, so that a folder without a lock has no owner."""
    with (scratch / SWEEP_LOCK).open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield


SECONDS_TO_GO = 10.0
"""For the kernel to remove killed processes."""


def sweep(scratch: Path) -> None:
    """Remove folders whose worker was killed, and kill what still runs there: nobody holds their lock any more.

    A folder whose worker was killed while creating or removing it has no lock at all. What cannot be removed is logged and
    stays.
    """
    if not scratch.is_dir():
        return
    with _sweep_lock(scratch):
        for folder in scratch.glob("*/"):
            if not _is_held(folder):
                log.info("left_over_removed", folder=str(folder))
                kill_strays(folder)
                _remove(folder)
        for promise in scratch.glob(f"*{RESERVED}"):
            if not promise.with_name(promise.name.removesuffix(RESERVED)).exists():
                _remove(promise)


def _is_held(folder: Path) -> bool:
    """Return whether a worker holds a folder. If a child replaced the lock file, nobody does."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return error.errno not in NO_LOCK
    try:
        if stat.S_ISREG(os.fstat(lock).st_mode):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _remove(place: Path) -> None:
    """Remove what an attempt left; what cannot be removed must not keep the worker from its next job."""
    try:
        remove_tree(place)
    except OSError as error:
        log.error("left_over_stays", path=str(place), error=str(error))


def kill_strays(folder: Path) -> None:
    """Kill every process whose home is `folder`, and wait until it is gone.

    A worker's child processes die with it, except for one moment: bubblewrap's child, before it asks the kernel for that,
    waits for its parent, and if the parent was killed it waits forever.
    """
    strays = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(folder):
                process.kill()
                strays.append(process)
        except psutil.Error:
            continue  # gone, or not ours
    if strays:
        log.warning("stray_killed", folder=str(folder), processes=[process.pid for process in strays])
        psutil.wait_procs(strays, timeout=SECONDS_TO_GO)


@contextmanager
def _folder_of(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder that contains root/path, following no link below root; yield it with the last name."""
    parts = path.split("/")
    if not parts or any(part in {"", ".", ".."} for part in parts):
        raise Untrustworthy(f"not a path below the folder: {path!r}")
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = deeper
        yield directory, parts[-1]
    except OSError as error:
        raise Untrustworthy(f"{path!r}: {error.strerror}") from error
    finally:
        os.close(directory)


def remove_beneath(root: Path, path: str) -> None:
    """Remove the folder root/path, following no link on the way. Raises Untrustworthy."""
    with _folder_of(root, path) as (directory, name):
        remove_tree(name, dir_fd=directory)


def open_beneath(root: Path, path: str) -> BufferedReader:
    """Open root/path for reading, following no link on the way. Raises Untrustworthy."""
    with _folder_of(root, path) as (directory, name):
        # O_NONBLOCK: a FIFO in place of a file must not block us.
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Untrustworthy(f"{path!r} is not a plain file")
    return os.fdopen(handle, "rb")


class VerifiedFile:
    """A file as its event described it, read once from start to end while its writer may go on writing.

    What is returned is what was hashed, and never more than was declared. The last bytes are returned only if all are right,
    so that a reader who stores them has stored nothing complete that is wrong.
    """

    def __init__(self, source: BinaryIO, size: int, sha256: str, name: str) -> None:
        self.source, self.left, self.sha256, self.name = source, size, sha256, name
        self.digest, self.ended = hashlib.sha256(), False

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; nothing at the end. Raises Untrustworthy if the file is another one."""
        if self.ended:
            return b""
        chunk = self.source.read(min(size, self.left))
        self.digest.update(chunk)
        self.left -= len(chunk)
        if chunk and self.left:
            return chunk
        if self.left or self.digest.hexdigest() != self.sha256 or self.source.read(1):
            raise Untrustworthy(f"{self.name!r} is not the file that its event describes")
        self.ended = True
        return chunk
