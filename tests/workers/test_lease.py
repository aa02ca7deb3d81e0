"""A lease that cannot be renewed is given up in time, and a worker that cannot let go of its job is ended."""

import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import Connection, event, select, text
from sqlalchemy.orm import Session

from app.core.settings import Settings
from app.jobs import fencing, jobs
from app.store import db
from app.store.db import writing
from app.store.models import Event
from tests.conftest import ROOT
from tests.support.rows import claimed, do, submitted
from workers.lease import Lease, persist


@pytest.fixture
def claim(settings: Settings) -> fencing.Claim:
    do(submitted)
    return claimed()


def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"heartbeat_seconds": 0.1, "lease_seconds": 60.0})


def test_a_lease_is_renewed_and_brings_cancel_in(claim: fencing.Claim, settings: Settings) -> None:
    lease = Lease(claim, quick(settings), on_lost=lambda: None)
    lease.start()
    do(jobs.cancel, claim.job.team_id, claim.job.id)
    assert lease.cancel.wait(30)
    assert lease.holds()
    lease.release()
    assert not lease.lost.is_set()


def test_a_lost_lease_ends_the_engine(claim: fencing.Claim, settings: Settings) -> None:
    killed = threading.Event()
    lease = Lease(claim, quick(settings), on_lost=killed.set)
    do(jobs.fail, claim, {"code": "x"})
    lease.start()
    assert killed.wait(30)
    assert not lease.holds()
    lease.release()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # SQLite has no connection that could break
def test_a_write_is_told_once_where_the_reply_to_its_commit_was_lost(claim: fencing.Claim, settings: Settings) -> None:
    lease = Lease(claim, settings.model_copy(update={"lease_seconds": 60}), on_lost=lambda: None)
    left = [2]

    def cut(connection: Connection) -> None:
        if left[0]:
            left[0] -= 1
            connection.connection.driver_connection.commit()
            connection.connection.driver_connection.close()

    event.listen(db.get_engine(), "commit", cut)
    persist(lease, lambda session: jobs.record_event(session, claim, "log", {"message": "x"}, origin="1.1"), every=0.01)
    assert left == [0]
    with writing() as session:
        kinds = session.scalars(select(Event.type).where(Event.job_id == claim.job.id).order_by(Event.seq)).all()
    assert kinds == ["queued", "claimed", "log"]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_write_whose_transaction_was_ended_for_its_silence_is_made_again(claim: fencing.Claim, settings: Settings) -> None:
    lease = Lease(claim, settings, on_lost=lambda: None)
    tries = []

    def write(session: Session) -> None:
        tries.append(1)
        if len(tries) == 1:
            session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
            time.sleep(1)  # as a process that stood still
        jobs.record_event(session, claim, "log", {"message": "x"}, origin="1.1")

    persist(lease, write, every=0.01)
    with writing() as session:
        kinds = session.scalars(select(Event.type).where(Event.job_id == claim.job.id).order_by(Event.seq)).all()
    assert (len(tries), kinds) == (2, ["queued", "claimed", "log"])


STUCK = """
import threading, time
from app.jobs.fencing import Claim
from app.store.models import Job
from app.core.settings import Settings
from workers.lease import Lease
claim = Claim(Job(id="job_x"), 1)
lease = Lease(claim, Settings(heartbeat_seconds=0.1, lease_seconds=1), on_lost=lambda: print("engine killed", flush=True))
lease.run = lambda: time.sleep(600)  # a heartbeat that a silent database holds up for ever
lease.start()
time.sleep(600)  # and so is whoever wanted to write
"""


def test_a_worker_that_cannot_let_go_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -9
    assert "engine killed" in done.stdout
