"""Transitions of a job, on both databases."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core.errors import WrongState
from app.core.failures import describe_failure
from app.jobs import fencing, jobs, stage_results
from app.store import resources
from app.store.clock import now
from app.store.models import Dataset, Event, Job, Metric
from tests.app.conftest import NewJob, SessionMaker
from tests.support.unmeasured import unmeasured

LEASE = 30.0
T = TypeVar("T")
CRASH = describe_failure("engine_crashed")


def take(transaction: SessionMaker, worker: str = "w", lease: float = LEASE) -> fencing.Claim | None:
    return do(transaction, jobs.claim, worker, lease)


def must_take(transaction: SessionMaker, worker: str = "w", lease: float = LEASE) -> fencing.Claim:
    claim = take(transaction, worker, lease)
    assert claim is not None
    return claim


def look(transaction: SessionMaker, job: Job) -> Job:
    with transaction() as session:
        return session.get_one(Job, job.id)


def do(transaction: SessionMaker, act: Callable[..., T], *arguments: Any, **options: Any) -> T:
    with transaction() as session:
        return act(session, *arguments, **options)


def test_a_job_is_claimed_once_however_many_ask(transaction: SessionMaker, new_job: NewJob) -> None:
    wanted = {new_job().id for _ in range(12)}

    def work(number: int) -> list[str]:
        found = []
        while claim := take(transaction, f"w{number}"):
            found.append(claim.job.id)
            do(transaction, jobs.finish, claim, {}, [])
        return found

    with ThreadPoolExecutor(8) as pool:
        got = [job for found in pool.map(work, range(8)) for job in found]
    assert sorted(got) == sorted(wanted)


def test_a_stale_fence_writes_nothing(transaction: SessionMaker, new_job: NewJob) -> None:
    job = new_job()
    old = must_take(transaction, lease=-1)
    assert do(transaction, jobs.requeue_expired, max_failures=3, backoff_seconds=0) == [job.id]
    new = must_take(transaction)
    assert new.fence == old.fence + 1
    writes: list[Callable[[Session], object]] = [
        lambda s: jobs.heartbeat(s, old, LEASE),
        lambda s: jobs.record_event(s, old, "log", {}),
        lambda s: stage_results.record_stage(s, old, unmeasured(), "p", [], []),
        lambda s: stage_results.record_part(s, old, "baseline.0", "p", [], [], {}),
        lambda s: jobs.finish(s, old, {}, []),
        lambda s: jobs.fail(s, old, {}),
        lambda s: jobs.mark_cancelled(s, old),
        lambda s: jobs.release(s, old),
        lambda s: jobs.retry_or_fail(s, old, {}, max_failures=3, backoff_seconds=0),
    ]
    for write in writes:
        with pytest.raises(fencing.StaleFence):
            do(transaction, write)
    after = look(transaction, job)
    assert (after.state, after.fence, after.metrics) == ("running", new.fence, [])


def test_lost_workers_are_counted_and_capped(transaction: SessionMaker, new_job: NewJob) -> None:
    job = new_job()
    for _ in range(3):
        must_take(transaction, lease=-1)
        assert do(transaction, jobs.requeue_expired, max_failures=3, backoff_seconds=0) == [job.id]
    end = look(transaction, job)
    assert (end.state, end.failures, end.error) == ("failed", 3, describe_failure("worker_lost"))
    assert take(transaction) is None


def test_a_lease_that_holds_is_not_reaped(transaction: SessionMaker, new_job: NewJob) -> None:
    new_job()
    claim = must_take(transaction, lease=0.05)
    do(transaction, jobs.heartbeat, claim, LEASE)
    time.sleep(0.1)
    assert do(transaction, jobs.requeue_expired, max_failures=3, backoff_seconds=0) == []


def test_back_off_delays_the_next_claim(transaction: SessionMaker, new_job: NewJob) -> None:
    job = new_job()
    do(transaction, jobs.retry_or_fail, must_take(transaction), CRASH, max_failures=3, backoff_seconds=60)
    assert take(transaction) is None
    with transaction() as session:
        told = session.scalars(select(Event.data).where(Event.job_id == job.id, Event.type == "requeued")).one()
    assert told["cause"] == CRASH["cause"]
    assert told["remedy"].startswith("Nothing: the job runs again by itself, in 60 seconds")
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(not_before=now(-1)))
    assert must_take(transaction).job.attempt == 2


def test_cancel_of_a_running_job_comes_with_the_heartbeat(transaction: SessionMaker, held: fencing.Claim) -> None:
    assert do(transaction, jobs.cancel, held.job.team_id, held.job.id).state == "running"
    with transaction() as session:
        assert jobs.heartbeat(session, held, LEASE).cancel
        jobs.mark_cancelled(session, held)
    assert do(transaction, jobs.cancel, held.job.team_id, held.job.id).state == "cancelled"  # asking again is harmless


def test_cancel_after_the_end_is_refused(transaction: SessionMaker, new_job: NewJob) -> None:
    job = new_job()
    do(transaction, jobs.finish, must_take(transaction), {"version": 1}, [])
    with pytest.raises(WrongState), transaction() as session:
        jobs.cancel(session, job.team_id, job.id)
    again = do(transaction, jobs.retry, job.team_id, job.id)
    assert (again.state, again.retry_of) == ("queued", job.id)


SET_BACK = partial(jobs.retry_or_fail, error=CRASH, max_failures=3, backoff_seconds=0)
WRITES: dict[str, Callable[[Session, fencing.Claim], None]] = {"drained": jobs.release, "set back": SET_BACK}


@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancel first", "cancel second"])
@pytest.mark.parametrize("write", WRITES)
def test_a_cancel_ends_a_job_on_its_way_back(
    write: str, cancel_first: bool, transaction: SessionMaker, held: fencing.Claim
) -> None:
    acts: list[Callable[[Session], object]] = [
        lambda session: jobs.cancel(session, held.job.team_id, held.job.id),
        lambda session: WRITES[write](session, held),
    ]
    first, second = acts if cancel_first else reversed(acts)

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            first(session)
            waiting = pool.submit(do, transaction, second)
            with suppress(TimeoutError):
                waiting.result(0.5)  # it has begun, and waits for us
        waiting.result(60)
    assert look(transaction, held.job).state == "cancelled"


TOLD = {"stage": "distilled", "phase": "export", "step": 0, "total": 1, "fraction": 0.93, "eta_seconds": 48.0}


def test_a_job_that_ended_well_is_done_to_the_end(transaction: SessionMaker, held: fencing.Claim) -> None:
    do(transaction, jobs.heartbeat, held, LEASE, progress=TOLD)
    do(transaction, jobs.finish, held, {"version": 1}, [])
    assert look(transaction, held.job).progress == {**TOLD, "fraction": 1.0, "eta_seconds": 0.0}


ENDS: dict[str, Callable[[Session, fencing.Claim], object]] = {
    "failed": partial(jobs.fail, error=CRASH),
    "cancelled": jobs.mark_cancelled,
    "given up": partial(SET_BACK, max_failures=1),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_job_that_ends_early_has_nothing_left_to_wait_for(end: str, transaction: SessionMaker, held: fencing.Claim) -> None:
    do(transaction, jobs.heartbeat, held, LEASE, progress=TOLD)
    do(transaction, ENDS[end], held)
    ended = look(transaction, held.job)
    assert ended.state == ("cancelled" if end == "cancelled" else "failed")
    assert ended.finished_at is not None
    assert ended.progress == {**TOLD, "eta_seconds": None}


def test_the_outcome_is_final_even_for_plain_sql(transaction: SessionMaker, held: fencing.Claim) -> None:
    with transaction() as session:
        stage_results.record_stage(session, held, unmeasured(), "p", [], [])
        jobs.finish(session, held, {"version": 1}, [])
    jobs_too = ("UPDATE jobs SET state = 'queued'", "UPDATE jobs SET report = NULL")
    for statement in (*jobs_too, "DELETE FROM metrics", "UPDATE metrics SET parameters = 1"):
        with pytest.raises(DBAPIError, match="final"), transaction() as session:
            session.execute(text(statement))
    with transaction() as session:
        session.execute(text('UPDATE jobs SET labels = \'{"a": "b"}\''))
    assert look(transaction, held.job).labels == {"a": "b"}


@pytest.mark.parametrize("out_of", [True, False], ids=["out of it", "into it"])
def test_metrics_are_not_moved_from_or_to_a_finished_job(out_of: bool, transaction: SessionMaker, new_job: NewJob) -> None:
    new_job(), new_job()
    over, running = must_take(transaction), must_take(transaction)
    with transaction() as session:
        stage_results.record_stage(session, over if out_of else running, unmeasured(), "p", [], [])
        jobs.finish(session, over, {}, [])
    with pytest.raises(DBAPIError, match="final"), transaction() as session:
        session.execute(update(Metric).values(job_id=(running if out_of else over).job.id))
    third = new_job()
    with transaction() as session:  # between two that are not over it is nobody's matter
        session.execute(update(Metric).where(Metric.job_id == running.job.id).values(job_id=third.id))


def test_a_stage_that_is_done_again_replaces_its_row(transaction: SessionMaker, held: fencing.Claim) -> None:
    for _ in range(2):
        do(transaction, stage_results.record_stage, held, unmeasured(), "p", [{"path": "x", "size": 1, "sha256": "0"}], [])
    with transaction() as session:
        assert len(session.scalars(select(Metric).where(Metric.job_id == held.job.id)).all()) == 1
        assert [done.stage for done in stage_results.list_checkpoints(session, held.job.id)] == ["baseline"]


def test_a_rollback_rings_nobody(transaction: SessionMaker, new_job: NewJob) -> None:
    job = new_job()
    with pytest.raises(ZeroDivisionError), transaction() as session:
        jobs.cancel(session, job.team_id, job.id)
        jobs.retry(session, job.team_id, job.id)
        assert session.info["wake"] == {"jobs"}
        raise ZeroDivisionError
    assert "wake" not in session.info
    assert look(transaction, job).state == "queued"


@pytest.mark.parametrize(
    "delete",
    [
        lambda session, job: resources.delete(session, Dataset, job.team_id, job.dataset_id),
        lambda session, job: jobs.delete_job(session, job.team_id, job.id),
    ],
)
def test_the_rows_that_a_report_shows_go_with_their_dataset_or_with_the_job(
    transaction: SessionMaker, held: fencing.Claim, delete: Callable[[Session, Job], None]
) -> None:
    shown, kept = [{"texts": ["a lovely film"], "expected": "positive"}], {"headline": "int8", "samples": []}
    do(transaction, jobs.finish, held, {**kept, "samples": shown}, [])
    with transaction() as session:
        job = jobs.get(session, held.job.team_id, held.job.id)
        assert (job.report, jobs.whole_report(job)) == (kept, {**kept, "samples": shown})
        delete(session, job)
        session.flush()
        session.refresh(job, ["report", "samples"])
        assert (job.report, job.samples) == (kept, None)
