"""Transitions in threads that race, on both databases: exactly one wins, and the events tell which."""

import random
import threading
import time

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import WrongState
from app.jobs import jobs
from app.store.models import Event, Job
from tests.faults.conftest import OVER, Stand

RACES = 40


def test_a_cancel_that_meets_the_end_loses_or_wins_but_never_both(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.capacity.wake_after_commit", lambda *_: None)  # no worker is to know of these
    outcomes = []
    for number in range(RACES):
        with Session(stand.engine) as session, session.begin():
            waiting = stand.queue(session)
            job_id, team = waiting.id, waiting.team_id
        outcomes.append(race(stand, team, job_id, *pauses(number)))
        with Session(stand.engine) as session:
            job = session.get_one(Job, job_id)
            told = session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.seq)).all()
        types = [event.type for event in told]
        assert job.state == outcomes[-1] != "running"
        assert [kind for kind in types if kind in OVER] == [job.state] == types[-1:]
        assert [event.seq for event in told] == list(range(1, job.event_seq + 1))
    assert set(outcomes) == {"succeeded", "cancelled"}  # or the race was none


def pauses(number: int) -> tuple[float, float]:
    """How long the worker and the sender hesitate: now and then one for certain, mostly neither by more than a moment."""
    if number % 5 == 0:
        return (0.2, 0.0) if number % 2 else (0.0, 0.2)
    choose = random.Random(number)
    return choose.choice((0, 0.001, 0.003, 0.01)), choose.choice((0, 0.001, 0.003, 0.01))


def race(stand: Stand, team: str, job_id: str, worker_waits: float, sender_waits: float) -> str:
    """Let a worker finish a job while its sender cancels it; return the outcome that was written."""
    ready = threading.Barrier(2)
    problems: list[BaseException] = []

    def worker() -> None:
        try:
            with Session(stand.engine, expire_on_commit=False) as session, session.begin():
                claim = jobs.claim(session, "wkr_race", 60)
            assert claim.job.id == job_id
            ready.wait(30)
            time.sleep(worker_waits)
            with Session(stand.engine) as session, session.begin():
                beat = jobs.heartbeat(session, claim, 60)
            with Session(stand.engine) as session, session.begin():
                if beat.cancel:
                    jobs.mark_cancelled(session, claim)
                else:
                    jobs.finish(session, claim, {}, [])
        except BaseException as error:
            problems.append(error)
            ready.abort()

    def sender() -> None:
        try:
            ready.wait(30)
            time.sleep(sender_waits)
            with Session(stand.engine) as session, session.begin():
                jobs.cancel(session, team, job_id)
        except WrongState:
            pass
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=target) for target in (worker, sender)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems, problems
    with Session(stand.engine) as session:
        return session.get_one(Job, job_id).state
