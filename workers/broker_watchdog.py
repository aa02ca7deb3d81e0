"""Whether wake-ups still reach this worker. One that has gone deaf begins anew.

Celery's consumer can live and hear nothing any more: its connection to the broker died in a way that it does not see, or its
child hangs. Nobody is told, and jobs wait for ever where this is the only worker. But the table is the queue, so it can be
found out: work waits, the child does none, and rings that the broker took from this very process have not made it look.
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
"""Rings that are sent and not heard before a worker is deaf. Other idle workers hear some, but they take the work, too."""


class ChildActivity:
    """How often the child has looked for work, and who is at work: memory that a worker's parent and its children share.

    Made before the fork. The child alone writes.
    """

    LOOKS, PID = struct.Struct("=I"), struct.Struct("=I")

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, self.LOOKS.size + self.PID.size)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """In the child: it has heard, and works until the block ends."""
        self.LOOKS.pack_into(self.memory, 0, (self.polls + 1) % 2**32)
        self.PID.pack_into(self.memory, self.LOOKS.size, os.getpid())
        try:
            yield
        finally:
            self.PID.pack_into(self.memory, self.LOOKS.size, 0)

    @property
    def polls(self) -> int:
        """How often a child began to look."""
        found: int = self.LOOKS.unpack_from(self.memory, 0)[0]
        return found

    @property
    def idle(self) -> bool:
        """Whether no child is at work; one that was killed is not."""
        pid: int = self.PID.unpack_from(self.memory, self.LOOKS.size)[0]
        return not pid or not psutil.pid_exists(pid)


class BrokerWatchdog:
    """Rings for this worker while work waits that it does not take, and says when that is of no use."""

    def __init__(
        self,
        ears: ChildActivity,
        sender: WakeUpSender,
        lane: str,
        ring_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.activity, self.sender, self.lane, self.ring_seconds, self.clock = ears, sender, lane, ring_seconds, clock
        self.polls: int | None = None
        self.sent, self.rung = 0, 0.0

    def is_deaf(self, waiting: Callable[[], bool]) -> bool:
        """Say whether this worker is deaf. Called every few seconds; `waiting` says whether there is work that it could take.

        A broker that is away takes no ring, so nobody is called deaf for it.
        """
        looks = self.activity.polls
        if not self.activity.idle or not waiting():
            self.polls = None
            return False
        if looks != self.polls:
            self.polls, self.sent, self.rung = looks, self.sender.sent, self.clock()
            return False
        if self.sender.sent - self.sent >= MAX_MISSED:
            return True
        if self.clock() - self.rung >= self.ring_seconds:
            self.rung = self.clock()
            self.sender.send_soon(self.lane)
        return False


def restart_worker(lane: str) -> None:
    """Become a new worker in the same process: fresh connections, fresh children. Does not return."""
    log.warning("deaf", lane=lane, note="work waits, and wake-ups that the broker took do not arrive: this worker starts again")
    for child in psutil.Process().children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "workers", lane])  # noqa: S606 (our own interpreter and package)
