"""What other processes take of the processors while a bench runs: figures of a busy machine prove nothing."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

SAMPLE_SECONDS = 1.0
"""How often processes are asked for their time: what one takes after the last time before its end is not seen."""


class ProcessTime:
    """The processor time of a process and of all that it has started, as far as it was asked for while these ran.

    The kernel adds the time of a process that has ended to its parent's only if the parent waits for it, which an engine's
    confinement does not.
    """

    def __init__(self, process: int) -> None:
        self.process = process
        self._times: dict[tuple[int, float], float] = {}

    def seconds(self) -> float:
        """Ask for the time, and return it."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process)
            for each in [top, *top.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    self._times[each.pid, each.create_time()] = sum(each.cpu_times()[:2])
        return sum(tuple(self._times.values()))  # of a moment: both threads write them

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ask for the time regularly meanwhile."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                self.seconds()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Others:
    """What processes other than those of a bench take of the processors."""

    def __init__(self, own_seconds: Callable[[], float]) -> None:
        """own_seconds: returns the processor time that the bench's own processes have taken."""
        self.own_seconds, self.started = own_seconds, time.monotonic()
        self.busy, self.own = self._busy(), own_seconds()

    def share(self) -> float:
        """Return their share of all processors since this was made."""
        room = (time.monotonic() - self.started) * (os.cpu_count() or 1)
        found = self._busy() - self.busy - (self.own_seconds() - self.own)
        return min(max(found / room, 0.0), 1.0)

    @staticmethod
    def _busy() -> float:
        times = psutil.cpu_times()
        return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
