"""Cleans up after `lathe up` if that is killed: `python watchdog.py`, started by processes.py.

Standard input is a pipe whose other end only `lathe up` has; each line is the pid of a part that was started. The pipe ends
when `lathe up` is gone. After SIGKILL nothing else could stop the parts, nor the engines below the workers.
"""

import os
import signal
import sys
from collections.abc import Iterable

import psutil

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def tree(pid: int, started: float | None = None) -> list[psutil.Process]:
    """Return a process and its descendants; nothing if the pid is now another process's."""
    try:
        root = psutil.Process(pid)
        if started is not None and abs(root.create_time() - started) > 1.0:
            return []
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def signal_all(processes: Iterable[psutil.Process], number: int, wait: float) -> list[psutil.Process]:
    """Send a signal; return the processes still alive after `wait` seconds. A reused pid is left alone."""
    processes = list(processes)
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
    return list(psutil.wait_procs(processes, timeout=wait)[1])


def kill(processes: Iterable[psutil.Process]) -> None:
    """Send SIGKILL, also to processes that they started meanwhile."""
    processes = set(processes)
    below = {child for process in processes for child in tree(process.pid, process.create_time())}
    signal_all(processes | below, signal.SIGKILL, 5.0)


def main() -> None:
    """Collect pids until the pipe ends, then end the processes that are left."""
    os.umask(0o077)
    started: dict[int, float] = {}
    for line in sys.stdin:
        try:
            started[int(line)] = psutil.Process(int(line)).create_time()
        except (ValueError, psutil.Error):
            continue
    parts = {process for pid, start in started.items() for process in tree(pid, start)}
    kill(signal_all(parts, signal.SIGTERM, GRACE))


if __name__ == "__main__":
    main()
