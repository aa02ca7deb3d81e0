"""How long this process was ready to run while other processes ran in its place.

Linux counts it for each thread, in nanoseconds: the second number of /proc/PID/task/TID/schedstat
(https://docs.kernel.org/scheduler/sched-stats.html). What waits on purpose, as for a file, does not count.
"""

import os
import threading
from pathlib import Path
from types import TracebackType

TASKS = Path("/proc/self/task")


class ProcessorWaits:
    """Reads it for the thread that opens it, or for all threads that run then. It is 0 where the kernel does not count it."""

    def __init__(self, *, every: bool = True) -> None:
        self._files: list[int] = []
        self._which = "*" if every else str(threading.get_native_id())

    def __enter__(self) -> "ProcessorWaits":
        for task in TASKS.glob(self._which):
            try:
                file = os.open(task / "schedstat", os.O_RDONLY)
            except OSError:  # not counted, or the thread has ended
                continue
            self._files.append(file)
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    def read(self) -> list[int]:
        """Return each thread's nanoseconds since its start; 0 of one that has ended. It takes some 4 µs a thread."""
        return [_of(file) for file in self._files]


def _of(file: int) -> int:
    try:
        return int(os.pread(file, 64, 0).split()[1])
    except (OSError, IndexError, ValueError):
        return 0
