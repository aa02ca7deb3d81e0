"""Detects that wake-ups no longer reach this worker, and restarts it.

Celery's consumer can be alive and receive nothing: its connection to the broker died unnoticed, or its child hangs. Nothing
reports that, and jobs would wait forever if this is the only worker. But the table is the queue, so it can be detected: work
waits, the child does none, and wake-ups that the broker accepted from this very process do not make it look.
"""

import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import structlog

from app.store.broker import WakeUpSender

log = structlog.get_logger()
MAX_MISSED = 5
"""Missed wake-ups before a worker restarts. Other idle workers receive some of them, but those take the work, too."""


class ChildActivity:
    """How often the child has looked for work, and whether it is working: memory shared by a worker's parent and its children.

    Created before the fork. Only the child writes.
    """

    LOOKS, PID = struct.Struct("=I"), struct.Struct("=I")

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, self.LOOKS.size + self.PID.size)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """For the child: count a look, and mark it as working until the block ends."""
        self.LOOKS.pack_into(self.memory, 0, (self.polls + 1) % 2**32)
        self.PID.pack_into(self.memory, self.LOOKS.size, os.getpid())
        try:
            yield
        finally:
            self.PID.pack_into(self.memory, self.LOOKS.size, 0)

    @property
    def polls(self) -> int:
        """How often a child began to look for work."""
        found: int = self.LOOKS.unpack_from(self.memory, 0)[0]
        return found

    @property
    def idle(self) -> bool:
        """Whether no child is working; a killed one is not."""
        pid: int = self.PID.unpack_from(self.memory, self.LOOKS.size)[0]
        return not pid or not psutil.pid_exists(pid)


class BrokerWatchdog:
    """Sends wake-ups to this worker while work waits, and detects that they do not arrive."""

    def __init__(
        self,
        ears: ChildActivity,
        sender: WakeUpSender,
        target: str,
        ring_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.activity, self.sender, self.target, self.ring_seconds, self.clock = ears, sender, target, ring_seconds, clock
        self.polls: int | None = None
        self.sent, self.rung = 0, 0.0

    def is_deaf(self, waiting: Callable[[], bool]) -> bool:
        """Return whether wake-ups no longer arrive. Called every few seconds; `waiting` tells whether there is work for this
        worker.

        A broker that is away accepts no wake-up, so it restarts no worker.
        """
        looks = self.activity.polls
        if not self.activity.idle or not waiting():
            self.polls = None
            return False
        if looks != self.polls:
            self.polls, self.sent, self.rung = looks, self.sender.sent, self.clock()
            return False
        if self.sender.sent - self.sent >= MAX_MISSED:
            return self.activity.idle and self.activity.polls == looks  # a wake-up may have arrived while `waiting` looked
        if self.clock() - self.rung >= self.ring_seconds:
            self.rung = self.clock()
            self.sender.send_soon(self.target)
        return False


def restart_worker(lane: str) -> None:
    """Replace this process by a new worker: fresh connections, fresh children. Does not return."""
    log.warning("deaf", lane=lane, note="work waits, and wake-ups that the broker took do not arrive: this worker starts again")
    for child in psutil.Process().children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "workers", lane])  # noqa: S606 (our own interpreter and package)
