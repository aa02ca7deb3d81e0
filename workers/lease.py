"""Holding a job: a thread that renews the lease, carries progress out, and brings cancel and drain in."""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from app import jobs
from app.db import writing
from app.settings import Settings

log = structlog.get_logger()
MARGIN = 0.7
"""Share of the lease after which a worker that cannot renew it gives up, well before another may take over."""


class Lease(threading.Thread):
    """Renews until it is closed. When the lease is lost, `lost` is set and `on_lost` called (which kills the engine)."""

    def __init__(self, claim: jobs.Claim, settings: Settings, on_lost: Callable[[], None]) -> None:
        super().__init__(name=f"lease-{claim.job.id}", daemon=True)
        self.claim, self.settings, self.on_lost = claim, settings, on_lost
        self.cancel, self.drain, self.lost = threading.Event(), threading.Event(), threading.Event()
        self.closed = threading.Event()
        self.progress: dict[str, Any] | None = None
        self.renewed = time.monotonic()

    def run(self) -> None:
        """Beat until closed or lost."""
        while not self.closed.wait(self.settings.heartbeat_seconds):
            started = time.monotonic()
            try:
                with writing() as session:
                    changes = {"progress": self.progress} if self.progress is not None else {}
                    beat = jobs.heartbeat(session, self.claim, self.settings.lease_seconds, **changes)
            except jobs.StaleFence:
                self._give_up("the job is not ours any more")
                return
            except Exception as error:  # the database is away: go on until the lease could be over
                log.warning("heartbeat_failed", job=self.claim.job.id, error=str(error))
                if time.monotonic() - self.renewed > MARGIN * self.settings.lease_seconds:
                    self._give_up("the lease could not be renewed")
                    return
                continue
            self.renewed = started
            if beat.cancel:
                self.cancel.set()
            if beat.drain:
                self.drain.set()

    def _give_up(self, reason: str) -> None:
        log.warning("lease_lost", job=self.claim.job.id, fence=self.claim.fence, reason=reason)
        self.lost.set()
        self.on_lost()

    def close(self) -> None:
        """Stop beating; returns once the last beat is over, so that none can follow the job's last write."""
        self.closed.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()
