"""The keeper: takes jobs from workers that are gone, wakes workers, and frees what was deleted. One leads; others stand by."""

import os
import signal
import socket
import threading
import time
from typing import Any

import structlog
from sqlalchemy import delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import jobs, logs, queue, resources
from app.clock import now
from app.db import reading, writing
from app.models import TERMINAL, Checkpoint, Dataset, File, IdempotencyKey, Job, Leader, Model, Worker
from app.settings import Settings, get_settings
from app.storage import Storage, get_storage

log = structlog.get_logger()
OFFICE = "keeper"
RING_SECONDS = 5.0
"""Between two wake-ups of a lane in which work waits: often enough after a lost message, too rare to fill the broker."""
REMEMBER_SECONDS = 24 * 3600.0
"""How long Idempotency-Keys, the rows of workers that are gone, and what a killed process left half written are kept."""


def lead(session: Session, holder: str, seconds: float) -> bool:
    """Take or keep the office until `seconds` from now; False while another holds it."""
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
        self.settings, self.storage = settings, storage
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.stopped = threading.Event()
        self.rung: dict[str, float] = {}
        self.grace_until = 0.0

    def run(self) -> None:
        """Make rounds until stopped. A database that is away stops nobody: the workers could not renew either."""
        while not self.stopped.is_set():
            try:
                self.round()
            except SQLAlchemyError as error:
                log.warning("round_failed", error=str(error))
                self.grace_until = time.monotonic() + self.settings.lease_seconds
            except OSError as error:
                log.warning("storage_away", error=str(error))
            self.stopped.wait(self.settings.keeper_seconds)

    def round(self) -> None:
        """Do everything once, if we lead."""
        with writing() as session:
            if not lead(session, self.holder, max(10.0, 5 * self.settings.keeper_seconds)):
                return
        if time.monotonic() >= self.grace_until:
            with writing() as session:
                reaped = jobs.reap(
                    session, max_failures=self.settings.max_failures, backoff_seconds=self.settings.backoff_seconds
                )
            for job_id in reaped:
                log.warning("reaped", job=job_id)
        self._wake()
        self._purge()
        with writing() as session:
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now(-REMEMBER_SECONDS)))
            session.execute(delete(Worker).where(Worker.seen_at < now(-REMEMBER_SECONDS)))

    def _wake(self) -> None:
        with reading() as session:
            waiting = {queue.JOBS: jobs.work_waiting(session), queue.CHECKS: resources.checks_waiting(session)}
        for lane, work in waiting.items():
            if work and time.monotonic() - self.rung.get(lane, -RING_SECONDS) >= RING_SECONDS:
                self.rung[lane] = time.monotonic()
                queue.bell().ring_now(lane)

    def _purge(self) -> None:
        """Free the bytes of what was deleted, and checkpoints of jobs that are over; rows that say so come last."""
        with reading() as session:
            gone: list[tuple[Any, str, str]] = []
            for kind, prefix in ((Job, "jobs"), (Model, "uploads"), (Dataset, "uploads")):
                dead = select(kind.id).where(kind.deleted_at.is_not(None), kind.purged_at.is_(None)).limit(20)
                gone += [(kind, identifier, f"{prefix}/{identifier}/") for identifier in session.scalars(dead)]
            over = select(Checkpoint).join(Job, Job.id == Checkpoint.job_id).where(Job.state.in_(TERMINAL)).limit(20)
            spent = list(session.scalars(over))
        for kind, identifier, prefix in gone:
            self._empty(prefix)
            with writing() as session:
                if kind is not Job:
                    owner = File.model_id if kind is Model else File.dataset_id
                    session.execute(update(File).where(owner == identifier).values(key=None))
                session.execute(update(kind).where(kind.id == identifier).values(purged_at=now()))
        self.storage.forget_unfinished(REMEMBER_SECONDS)
        for row in spent:
            self._empty(f"{row.prefix}/")
            with writing() as session:
                session.execute(delete(Checkpoint).where(Checkpoint.job_id == row.job_id, Checkpoint.stage == row.stage))

    def _empty(self, prefix: str) -> None:
        for stored in list(self.storage.objects(prefix)):
            self.storage.delete(stored.key)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logs.configure("keeper")
    keeper = Keeper(get_settings(), get_storage())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.stopped.set())
    log.info("keeper_started", holder=keeper.holder)
    keeper.run()
