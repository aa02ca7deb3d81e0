"""What the engine's processes owe their parent: to die with it, and to keep its event pipe clean. Torch-free."""

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
"""prctl(2): the signal that this process gets when the thread that started it ends. Linux alone knows it."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""mallopt(3): from what size on free memory goes back to the kernel, and blocks are mapped one by one."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, however the parent dies.

    Call it first thing. The kernel watches the *thread* that started us: a supervisor must start the engine from a thread
    that lives as long as it does. Exits at once where the parent died between the two looks at it. Raises OSError where
    the kernel refuses; elsewhere than on Linux there is no such request, and nothing happens.
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
    """Let this process take at most `most` bytes: a file that unpacks to more ends it, and not the machine."""
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def private_channel(fd: int = 1) -> TextIO:
    """Take `fd` for ourselves alone and point standard output at standard error.

    A library that prints, in Python or in C, then reaches the log and cannot corrupt the events. The channel is a copy
    that children do not inherit; it is line-buffered, so each event is one write. Raises OSError for a closed `fd`.
    """
    sys.stdout.flush()
    copy = os.dup(fd)
    if fd > 2:
        os.close(fd)
    os.dup2(2, 1)
    return os.fdopen(copy, "w", encoding="utf-8", buffering=1, newline="\n")


class PauseRequests:
    """Whether the parent has asked us to stop and keep what we have: a line `pause` on standard input, where that is a pipe.

    Calling it never blocks. A terminal, a file or nothing at all on standard input is left alone.
    """

    def __init__(self, fd: int = 0) -> None:
        self._fd: int | None = fd if _is_pipe(fd) else None
        self._heard = b""
        self._asked = False

    def __call__(self) -> bool:
        """Read what there is; say whether a pause was asked for, now or before."""
        while self._fd is not None and not self._asked and select.select([self._fd], [], [], 0)[0]:
            said = os.read(self._fd, 4096)
            if not said:
                self._fd = None
            *lines, rest = (self._heard + said).split(b"\n")
            self._heard = rest[-4096:]
            self._asked = b"pause" in lines
        return self._asked


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def imported(name: str) -> ModuleType:
    """Import a module and all that it needs, and leave that out of every garbage collection from now on.

    What is imported stays: looking for garbage among it took a fifth of the engine's start where this was measured.
    """
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.enable()
        gc.freeze()


def keep_freed_memory() -> None:
    """Let the C library reuse freed blocks in place of returning them to the kernel (glibc; elsewhere nothing happens).

    A training step frees and asks again for the same large buffers; getting each anew from the kernel, zeroed page by page,
    cost a fifth of the step on the machine where this was measured.
    """
    libc = ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 2**26)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)


def release_memory() -> None:
    """Give freed memory back to the kernel, before another process is measured on this machine."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def usable_cores() -> int:
    """Count the cores that this process may run on (its affinity, not the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
