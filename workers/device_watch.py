"""Keeps what a worker's row says of its device true: measures the CPU once it idles, and probes a lost card until it works."""

import threading
import time
from functools import partial

import psutil
import structlog

from app.core.settings import Settings
from compression.schema.worker_device import WorkerDevice
from workers.broker_watchdog import ChildActivity
from workers.device_probe import Chosen, run_probe
from workers.devices import CPU, DeviceAbsent

log = structlog.get_logger()
IDLE_SECONDS = 30.0
"""For which no child works before the CPU is measured: under load the figures would be too low."""
BUSY = 20.0
"""Per cent of all cores that others may use meanwhile."""
AGAIN_SECONDS = 60.0
"""Between two probes of a lost card."""


class DeviceWatch:
    """Asked at each heartbeat. A probe runs in a thread of its own, so that no heartbeat waits for it."""

    def __init__(self, settings: Settings, activity: ChildActivity, chosen: Chosen) -> None:
        self.settings, self.activity = settings, activity
        self.device, self.facts = chosen
        self.thread: threading.Thread | None = None
        self.found: WorkerDevice | None = None
        self.since: float | None = None
        """Since when the CPU is idle, or the card was lost or probed last."""
        self.looks = activity.polls
        self.given_up = False

    def round(self, *, lost: bool) -> WorkerDevice | None:
        """Start a probe if one is due; return what the last one found, once. lost: whether the row says so of the card."""
        if self.thread is not None:
            if self.thread.is_alive():
                return None
            self.thread, self.since = None, time.monotonic()
            found, self.found = self.found, None
            if found is not None:
                self.facts = found
            return found
        if self._is_due(lost):
            probe = partial(self._probe, self.activity.polls, lost=lost)
            self.thread = threading.Thread(target=probe, name="device-probe", daemon=True)
            self.thread.start()
        return None

    def _is_due(self, lost: bool) -> bool:
        if lost:
            wait = AGAIN_SECONDS
        elif self.facts.rates is None and not self.given_up and self.activity.idle and self.activity.polls == self.looks:
            wait = IDLE_SECONDS
        else:
            self.since, self.looks = None, self.activity.polls
            return False
        if self.since is None:
            self.since = time.monotonic()
            psutil.cpu_percent()  # the next call is about what follows
        over = time.monotonic() - self.since >= wait
        if over and not lost and psutil.cpu_percent() > BUSY:
            self.since = None  # others compute: another worker's job, or no work of Lathe at all
            return False
        return over

    def _probe(self, looks: int, *, lost: bool) -> None:
        try:
            found = run_probe(self.device, self.settings)
        except DeviceAbsent as problem:
            log.warning("device_probe_failed", cause=problem.cause)
            self.given_up = self.device == CPU  # its jobs do not depend on it
            return
        if not lost and self.activity.polls != looks:
            return  # a job began meanwhile: the rates are of what it left
        self.found = found
        log.info("device_measured", **found.model_dump(mode="json", exclude_none=True))
