"""Process setup of the engine: it dies with its parent and keeps its event pipe clean. Torch-free."""

import ctypes
import gc
import os
import resource
import select
import signal
import stat
import sys
from importlib import import_module
from types import ModuleType
from typing import TextIO

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when the thread that started it ends. Linux only."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""mallopt(3): the size above which free memory goes back to the kernel, and above which a block is mapped on its own."""


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, however it dies; on Linux only. Call it first.

    The kernel watches the *thread* that started this process: a supervisor must start the engine from a thread that lives as
    long as it does. Exits at once if the parent died between the two checks. Raises OSError if the kernel refuses.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:
        sys.exit("the parent process is gone")


def limit_memory(most: int) -> None:
    """Limit this process to `most` bytes: a file that unpacks to more ends the process, not the machine."""
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def private_channel(fd: int = 1) -> TextIO:
    """Reserve `fd` for this process's own output and point standard output at standard error.

    Libraries that print, in Python or in C, cannot corrupt the events. Children do not inherit the copy; it is line-buffered,
    so each event is one write. Raises OSError if `fd` is closed.
    """
    sys.stdout.flush()
    copy = os.dup(fd)
    if fd > 2:
        os.close(fd)
    os.dup2(2, 1)
    return os.fdopen(copy, "w", encoding="utf-8", buffering=1, newline="\n")


class PauseRequests:
    """Reports without blocking if the parent sent a line `pause` on standard input, which is read only if it is a pipe."""

    def __init__(self, fd: int = 0) -> None:
        self._fd: int | None = fd if _is_pipe(fd) else None
        self._rest = b""
        self._requested = False

    def __call__(self) -> bool:
        """Read the available input; return whether a pause is requested now or was before."""
        while self._fd is not None and not self._requested and select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, 4096)
            if not data:
                self._fd = None
            *lines, rest = (self._rest + data).split(b"\n")
            self._rest = rest[-4096:]
            self._requested = b"pause" in lines
        return self._requested


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def imported(name: str) -> ModuleType:
    """Import a module and keep it out of garbage collection: scanning it took a fifth of the engine's start where measured."""
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.enable()
        gc.freeze()


def keep_freed_memory() -> None:
    """Let the C library (glibc) reuse freed blocks instead of returning them to the kernel.

    A training step frees and allocates the same large buffers again and again; without this each comes from the kernel anew,
    zeroed page by page, which cost a fifth of the step where this was measured.
    """
    libc = ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 2**26)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)


def release_memory() -> None:
    """Return freed memory to the kernel, before another process is measured on this machine."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
