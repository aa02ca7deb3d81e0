"""The private folder of one attempt, and reading what a child wrote into it without trusting the child."""

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path

import psutil
import structlog

log = structlog.get_logger()
LOCK, DOOR = ".held", ".door"


class Untrustworthy(Exception):
    """A child's output is not what its events say, or not a plain file beneath its folder."""


@contextmanager
def private_folder(scratch: Path, name: str) -> Iterator[Path]:
    """Make scratch/name for us alone, hold it while it is used, and remove it at the end."""
    folder = scratch / name
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        with _door(scratch):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            fcntl.flock(stack.enter_context((folder / LOCK).open("w")), fcntl.LOCK_EX)
        yield folder


@contextmanager
def _door(scratch: Path) -> Iterator[None]:
    """Let one at a time make folders or sweep them: so a folder without a lock is nobody's."""
    with (scratch / DOOR).open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield


SECONDS_TO_GO = 10.0
"""For the kernel to take away what was killed."""


def sweep(scratch: Path) -> None:
    """Remove folders whose worker was killed, and what still runs there: nobody holds their lock any more.

    One whose worker was killed while it made or removed it has no lock at all.
    """
    if not scratch.is_dir():
        return
    with _door(scratch):
        for folder in scratch.glob("*/"):
            try:
                with (folder / LOCK).open("r+") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                pass
            except OSError:
                continue  # held
            log.info("left_over_removed", folder=str(folder))
            end_strays(folder)
            shutil.rmtree(folder, ignore_errors=True)


def end_strays(folder: Path) -> None:
    """Kill every process whose home is `folder`, and wait until it is gone.

    What a worker started dies with it, but for one moment: bubblewrap's child, before it has asked the kernel for that, waits
    for a word from its parent, and where the parent was killed it waits for ever.
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
    """Open the folder that root/path lies in, following no link below root; give it with the last name."""
    parts = path.split("/")
    if not parts or any(part in {"", ".", ".."} for part in parts):
        raise Untrustworthy(f"not a path beneath the folder: {path!r}")
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
        shutil.rmtree(name, dir_fd=directory)


def open_beneath(root: Path, path: str) -> BufferedReader:
    """Open root/path for reading, following no link on the way. Raises Untrustworthy."""
    with _folder_of(root, path) as (directory, name):
        # O_NONBLOCK: a FIFO in place of a file must not hold us up.
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Untrustworthy(f"{path!r} is not a plain file")
    return os.fdopen(handle, "rb")


def check(source: BufferedReader, size: int, sha256: str, name: str) -> None:
    """Compare a file with what its event promised, and rewind it. Raises Untrustworthy."""
    found = hashlib.file_digest(source, "sha256").hexdigest()
    if source.tell() != size or found != sha256:
        raise Untrustworthy(f"{name!r} is not the file that its event describes")
    source.seek(0)
