"""The keeper: takes jobs from lost workers and profiles from silent devices, wakes workers, and frees what was deleted.

One keeper leads; others stand by.
"""

import os
import secrets
import signal
import socket
import threading
import time

import structlog
from sqlalchemy import delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core import crash_points, logs
from app.core.settings import Settings, get_settings
from app.jobs import jobs, predictions, profiles
from app.jobs.capacity import Capacity, has_gpu_worker
from app.store import broker, resources
from app.store.clock import now
from app.store.db import reading, writing
from app.store.models import IdempotencyKey, Leader, Prediction, Worker
from app.store.storage import Storage, get_storage
from compression.schema.recipe.recipe import MOST_DEVICES
from workers.sweeper import Sweeper

log = structlog.get_logger()
OFFICE = "keeper"
RING_SECONDS = 5.0
"""Interval of wake-ups for a lane in which work waits: often enough after a lost message, rare enough for idle workers."""
REMEMBER_SECONDS = 24 * 3600.0
"""How long Idempotency-Keys, predictions and the rows of lost workers are kept."""
STOP_SECONDS = 5.0
"""How long a keeper that stops waits for the storage. What it deletes then, the next one deletes again."""


def take_leadership(session: Session, holder: str, seconds: float) -> bool:
    """Take or keep the leadership until `seconds` from now; return False while another keeper holds it."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    row = insert(Leader).values(office=OFFICE, holder=holder, until=now(seconds))
    mine_or_free = or_(Leader.holder == holder, Leader.until < now())
    taken = row.on_conflict_do_update(
        index_elements=[Leader.office], set_={"holder": holder, "until": now(seconds)}, where=mine_or_free
    ).returning(Leader.holder)
    return session.scalar(taken) == holder


class Keeper:
    """Makes a round every few seconds while it leads."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.settings = settings
        self.sweeper = Sweeper(settings, storage)
        # Containers may share a host name, and each counts its processes from 1.
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.stopped, self.leads = threading.Event(), False
        self.rung: dict[str, float] = {}
        self.grace_until = 0.0
        self.offset: float | None = None  # seconds from this machine's monotonic clock to the database's, at the last round

    def run(self) -> None:
        """Make rounds until stopped. A database outage stops no job, since the workers could not renew either.

        At the start nobody knows whether the database was away, so the first round that requeues jobs waits for the grace
        period, too.
        """
        self.grace_until = time.monotonic() + self.settings.lease_seconds
        sweeping = threading.Thread(target=self._sweep, name="sweeper", daemon=True)
        sweeping.start()
        while not self.stopped.is_set():
            try:
                self.round()
            except SQLAlchemyError as error:
                log.warning("round_failed", error=str(error))
                self.grace_until = time.monotonic() + self.settings.lease_seconds
            self.stopped.wait(self.settings.keeper_seconds)
        sweeping.join(STOP_SECONDS)

    def _sweep(self) -> None:
        """Free bytes while this keeper leads: in a separate thread, since a slow storage may take hours for a large dataset."""
        while not self.stopped.wait(self.settings.keeper_seconds):
            try:
                if self.leads:
                    self.sweeper.round()
            except Exception as error:  # nobody would see that this thread has ended
                log.warning("sweep_failed", error=f"{type(error).__name__}: {error}"[:500])

    def round(self) -> None:
        """Do everything but freeing bytes once, if this keeper leads."""
        with writing() as session:
            self.leads = take_leadership(session, self.holder, max(10.0, 5 * self.settings.keeper_seconds))
            self._check_clock(session)
        if not self.leads:
            return
        if time.monotonic() >= self.grace_until:
            with writing() as session:
                reaped = jobs.requeue_expired(
                    session, max_failures=self.settings.max_failures, backoff_seconds=self.settings.backoff_seconds
                )
            with writing() as session:
                late = jobs.fail_overdue(session)
            with writing() as session:
                silent = profiles.requeue_expired(session)
            for job_id in reaped:
                log.warning("reaped", job=job_id)
                crash_points.reach("keeper_after_reap")
            for job_id in late:
                log.warning("deadline_exceeded", job=job_id)
            for profile_id in silent:
                log.warning("device_silent", profile=profile_id)
        self._wake()
        with writing() as session:
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now(-REMEMBER_SECONDS)))
            session.execute(delete(Prediction).where(Prediction.created_at < now(-REMEMBER_SECONDS)))
            audit.delete_expired(session)
            session.execute(delete(Worker).where(Worker.seen_at < now(-REMEMBER_SECONDS)))

    def _check_clock(self, session: Session) -> None:
        """Begin a grace period if the database's clock has jumped: workers that live have had no time to renew.

        So does a machine that wakes: while it was suspended, its monotonic clock stood still.
        """
        offset = session.scalars(select(now())).one().timestamp() - time.monotonic()
        jumped = 0.0 if self.offset is None else offset - self.offset
        self.offset = offset
        if abs(jumped) > self.settings.lease_seconds / 3:
            log.warning("clock_jumped", seconds=round(jumped, 1))
            self.grace_until = time.monotonic() + self.settings.lease_seconds

    def _wake(self) -> None:
        with reading() as session:
            checks = resources.checks_waiting(session) or predictions.has_waiting_prediction(session)
            waiting = {broker.JOBS: jobs.has_waiting_job(session, Capacity("cpu", devices=MOST_DEVICES)), broker.CHECKS: checks}
            if has_gpu_worker(session):
                waiting[broker.GPU_JOBS] = jobs.has_waiting_job(session, Capacity("cuda", devices=MOST_DEVICES))
        for lane, work in waiting.items():
            if work and time.monotonic() - self.rung.get(lane, -RING_SECONDS) >= RING_SECONDS:
                self.rung[lane] = time.monotonic()
                broker.wake_up_sender().send_soon(lane)  # from a separate thread: a silent broker delays nothing


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logs.configure("keeper")
    keeper = Keeper(get_settings(), get_storage())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stopped.set())
    log.info("keeper_started", holder=keeper.holder)
    keeper.run()
