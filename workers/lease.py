"""The lease of a job: one thread renews it, stores progress and receives cancel and drain requests; another only watches the
clock, and kills this process if the first can neither renew nor return.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.orm import Session

from app.core.settings import Settings
from app.jobs import fencing, jobs
from app.store.db import writing

log = structlog.get_logger()
MARGIN = 0.7
"""Share of the lease after which a worker that cannot renew it gives up, well before another may take over."""
LAST_MOMENT = 0.2
"""Share of the lease that a worker then has to release its job by itself before it is killed."""


class Lease(threading.Thread):
    """Renews until it is closed. If the lease is lost, `lost` is set and `on_lost` called (which kills the engine)."""

    def __init__(self, claim: fencing.Claim, settings: Settings, on_lost: Callable[[], None]) -> None:
        super().__init__(name=f"lease-{claim.job.id}", daemon=True)
        self.claim, self.settings, self.on_lost = claim, settings, on_lost
        # The attempt's log context is bound to its own thread.
        self.log = log.bind(job=claim.job.id, fence=claim.fence, request_id=claim.job.request_id)
        self.cancel, self.drain, self.overdue, self.lost = (threading.Event() for _ in range(4))
        self.closed, self.let_go = threading.Event(), threading.Event()
        self.progress: dict[str, Any] | None = None
        self.renewed = time.monotonic()
        self.guard = threading.Thread(target=self._guard, name=f"guard-{claim.job.id}", daemon=True)

    def start(self) -> None:
        """Start to renew and to watch the clock."""
        super().start()
        self.guard.start()

    def run(self) -> None:
        """Renew until closed or lost."""
        while not (self.closed.wait(self.settings.heartbeat_seconds) or self.lost.is_set()):
            started = time.monotonic()
            try:
                with writing() as session:
                    changes = {"progress": self.progress} if self.progress is not None else {}
                    beat = jobs.heartbeat(session, self.claim, self.settings.lease_seconds, **changes)
            except fencing.StaleFence:
                self._give_up("another worker has the job")
                return
            except Exception as error:  # the database is away: go on until the lease could be over
                self.log.warning("heartbeat_failed", error=str(error))
                continue
            self.renewed = started
            for requested, flag in ((beat.cancel, self.cancel), (beat.drain, self.drain), (beat.overdue, self.overdue)):
                if requested:
                    flag.set()

    def age(self) -> float:
        """Return the seconds since the last confirmed renewal."""
        return time.monotonic() - self.renewed

    def holds(self) -> bool:
        """Return whether no other worker can have the job yet."""
        return not self.lost.is_set() and self.age() < MARGIN * self.settings.lease_seconds

    def _guard(self) -> None:
        # Uses neither database nor network: a database that swallows its requests would block this thread, too.
        since: float | None = None
        while not self.let_go.wait(min(0.5, self.settings.lease_seconds / 20)):
            if self.age() > MARGIN * self.settings.lease_seconds and not self.lost.is_set():
                self._give_up("the lease could not be renewed")
            if self.lost.is_set() and since is None:
                since = time.monotonic()
            if since is not None and time.monotonic() - since > LAST_MOMENT * self.settings.lease_seconds:
                self.log.error("self_kill", note="did not release the job in time")
                os.kill(os.getpid(), signal.SIGKILL)

    def _give_up(self, reason: str) -> None:
        self.log.warning("lease_lost", reason=reason)
        self.lost.set()
        self.on_lost()

    def close(self) -> None:
        """Stop renewing; return once the last renewal is over, so that none can follow the job's last write."""
        self.closed.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def release(self) -> None:
        """Release the job: none of our writes is running any more."""
        self.close()
        self.let_go.set()


Write = Callable[[Session], None]
AWAY = (OperationalError, InterfaceError, InternalError)
"""Errors of a database that is away; the last means that a transaction of ours idled (app/store/db.py)."""


def persist(lease: Lease, write: Write, every: float = 0.5) -> None:
    """Make a write that must not be lost: retry while the database is away and the job is certainly ours.

    The write must tolerate being made twice. Raises StaleFence, and the database's last error once the lease may be over.
    """
    while True:
        try:
            with writing() as session:
                write(session)
            return
        except AWAY as error:
            if not lease.holds():
                raise
            lease.log.warning("write_again", error=str(error.orig))
            time.sleep(every)
