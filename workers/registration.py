"""A worker's row: its identity, its heartbeat, and whether it drains."""

import os
import platform
import socket
import threading
import time
from typing import Any

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.core.ids import new_id
from app.core.settings import Settings
from app.jobs import jobs, predictions
from app.jobs.capacity import Capacity
from app.store import broker, resources
from app.store.clock import now
from app.store.db import get_engine, reading, writing
from app.store.models import Worker
from compression.schema.searches import installed_searches
from compression.system.processor import processor, usable_cores
from workers.broker_watchdog import BrokerWatchdog, ChildActivity, restart_worker
from workers.device_probe import choose_device, count_devices, unmeasured_cpu, wake_up_target
from workers.device_watch import DeviceWatch
from workers.devices import CPU
from workers.limits import augmentation, engine_memory, lm_eval
from workers.sandbox import get_sandbox

log = structlog.get_logger()
PATIENCE = 20.0
"""Seconds that a fork waits for a heartbeat: more than SQLite's own timeout would block the whole worker."""


class ForkGate:
    """Prevents forks while this process has an open database connection.

    SQLite records its locks per process. A child forked while the parent holds the write lock inherits the record but not the
    thread that would release it, so the database would stay locked for that child.
    """

    def __init__(self) -> None:
        self.lock, self.mine = threading.Lock(), False
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._after_in_child)

    def _before(self) -> None:
        self.mine = self.lock.acquire(timeout=PATIENCE)

    def _after(self) -> None:
        if self.mine:
            self.mine = False
            self.lock.release()

    def _after_in_child(self) -> None:
        self.lock, self.mine = threading.Lock(), False


gate = ForkGate()


class Registration(threading.Thread):
    """Writes a heartbeat every few seconds. Runs in Celery's parent, so it goes on while the child works."""

    def __init__(self, lane: str, settings: Settings, ears: ChildActivity) -> None:
        super().__init__(name="registration", daemon=True)
        self.worker_id = new_id("wkr")
        self.lane, self.settings = lane, settings
        self.woken = threading.Event()
        self.drains = False
        self.facts: dict[str, Any] = {}
        # Uploads are checked and predictions answered on the CPU.
        self.chosen = choose_device(settings) if lane == broker.JOBS else (CPU, unmeasured_cpu())
        self.device = DeviceWatch(settings, ears, self.chosen) if lane == broker.JOBS else None
        self.watchdog = BrokerWatchdog(ears, broker.wake_up_sender(), wake_up_target(lane, settings), settings.ring_seconds)

    def register(self) -> None:
        """Write the row. The child reads its id from the environment."""
        os.environ["LATHE_WORKER_ID"] = self.worker_id
        self.facts = {
            "cores": usable_cores(),
            "processor": processor(),
            "threads": self.settings.engine_threads,
            "memory_bytes": engine_memory(self.settings),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "devices": [self.chosen[1].name],
            "device": self.chosen[1].model_dump(mode="json"),
            "train_devices": count_devices(self.settings) if self.lane == broker.JOBS else 1,
            "confinement": get_sandbox(self.settings).level,
            "augmentation": augmentation(self.settings),
            "lm_eval": lm_eval(self.settings),
            "searches": installed_searches(),
        }
        with writing() as session:
            session.add(self._row())
        log.info("worker_started", worker=self.worker_id, lane=self.lane, **self.facts)

    def _row(self, *, drain: bool = False) -> Worker:
        who = {"id": self.worker_id, "kind": self.lane, "host": socket.gethostname(), "pid": os.getpid()}
        return Worker(**who, facts=self.facts, drain=drain)

    def run(self) -> None:
        """Write heartbeats as long as the process lives."""
        drain_written = False
        while True:
            self.woken.wait(self.settings.heartbeat_seconds)
            drains = self.drains
            try:
                self.beat(drains)
                drain_written = drains
                if not drains and self.watchdog.is_deaf(self.work_waits):
                    restart_worker(self.lane)
            except Exception as error:  # the database is away; the next heartbeat tries again
                log.warning("registration_failed", error=str(error))
            if drain_written or not drains:
                self.woken.clear()
            else:
                time.sleep(0.5)

    def beat(self, drains: bool) -> None:
        """Write a heartbeat, and close all connections, which a child could inherit.

        The keeper deletes rows that were silent for a day, because their worker was suspended or its database away. Without a
        row nothing would tell our child to stop, so it is written again.
        """
        with gate.lock:
            try:
                with writing() as session:
                    mine = update(Worker).where(Worker.id == self.worker_id).values(seen_at=now(), drain=drains)
                    row = session.scalar(mine.returning(Worker))
                    if row is None:
                        session.add(row := self._row(drain=drains))
                    self._tend_device(row)
            finally:
                get_engine().dispose()

    def _tend_device(self, row: Worker) -> None:
        """Write what a probe found into the row. The child writes there that the device is lost; only a probe takes it back."""
        if self.device is None:
            return
        lost = bool(row.facts.get("device", {}).get("lost"))
        found = self.device.round(lost=lost)
        if found is not None:
            self.facts = {**self.facts, "device": found.model_dump(mode="json")}
        if found is not None or (not lost and row.facts != self.facts):
            row.facts = self.facts

    def work_waits(self) -> bool:
        """Return whether there is work that this worker could take."""
        with gate.lock:
            try:
                with reading() as session:
                    if self.lane == broker.CHECKS:
                        return resources.checks_waiting(session) or predictions.has_waiting_prediction(session)
                    capacity = own_capacity(session, self.worker_id)
                    return capacity is not None and jobs.has_waiting_job(session, capacity)
            finally:
                get_engine().dispose()

    def drain(self) -> None:
        """Ask our own child to release its job: SIGTERM only reaches this parent.

        Called from a signal handler, which may interrupt anything: it only sets flags, and the thread writes.
        """
        self.drains = True
        self.woken.set()


def own_capacity(session: Session, worker_id: str) -> Capacity | None:
    """Return what this worker offers to jobs now; None while its device is lost, or its row is missing."""
    facts = session.scalar(select(Worker.facts).where(Worker.id == worker_id))
    return None if facts is None else Capacity.of(facts)


def is_draining(worker_id: str) -> bool:
    """Return whether this worker should take no more jobs."""
    with reading() as session:
        return bool(session.scalar(select(Worker.drain).where(Worker.id == worker_id)))
