"""Transitions of a job, on both databases."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core.errors import NotFound, WrongState
from app.core.failures import describe_failure
from app.jobs import fencing, jobs, stage_results
from app.store.clock import now
from app.store.models import Event, Job, Metric
from compression.schema.report.measurements import NotMeasured, Parameters, Ratios, Row, Shape, Size
from tests.app.conftest import SessionMaker

LEASE = 30.0


def take(transaction: SessionMaker, worker: str = "w", lease: float = LEASE) -> fencing.Claim | None:
    with transaction() as session:
        return jobs.claim(session, worker, lease)


def must_take(transaction: SessionMaker, worker: str = "w", lease: float = LEASE) -> fencing.Claim:
    claim = take(transaction, worker, lease)
    assert claim is not None
    return claim


def look(transaction: SessionMaker, job: Job) -> Job:
    with transaction() as session:
        return session.get_one(Job, job.id)


def row(stage: str = "baseline") -> Row:
    nothing = NotMeasured(not_measured="a test")
    return Row(
        stage=stage,
        artifact="a",
        shape=Shape(layers=1, hidden=2, heads=1, ffn=4, vocabulary=5),
        parameters=Parameters(total=10, embedding=4, other=6),
        size=Size(bytes=40, dtype="float32", bytes_at_16_bit=20),
        latency=nothing,
        score=nothing,
        flops=nothing,
        peak_memory_bytes=nothing,
        seconds=1.0,
        ratios=Ratios(
            parameter_reduction=0,
            size_reduction=0,
            speed_up=None,
            latency_reduction=None,
            retention=None,
            retention_above_chance=None,
        ),
    )


def test_a_job_is_claimed_once_however_many_ask(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    wanted = {new_job().id for _ in range(5)}
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: take(transaction, f"w{n}"), range(8)))
    got = [claim.job.id for claim in claims if claim]
    assert sorted(got) == sorted(wanted)


def test_a_second_delivery_finds_nothing(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    new_job()
    assert take(transaction)
    assert take(transaction) is None


def test_a_stale_fence_writes_nothing(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    old = must_take(transaction, lease=-1)
    with transaction() as session:
        assert jobs.requeue_expired(session, max_failures=3, backoff_seconds=0) == [job.id]
    new = must_take(transaction)
    assert new.fence == old.fence + 1
    writes: list[Callable[[Session], object]] = [
        lambda s: jobs.heartbeat(s, old, LEASE),
        lambda s: jobs.record_event(s, old, "log", {}),
        lambda s: stage_results.record_stage(s, old, row(), "p", [], []),
        lambda s: stage_results.record_part(s, old, "baseline.0", "p", [], [], {}),
        lambda s: jobs.finish(s, old, {}, []),
        lambda s: jobs.fail(s, old, {}),
        lambda s: jobs.mark_cancelled(s, old),
        lambda s: jobs.release(s, old),
        lambda s: jobs.retry_or_fail(s, old, {}, max_failures=3, backoff_seconds=0),
    ]
    for write in writes:
        with pytest.raises(fencing.StaleFence), transaction() as session:
            write(session)
    after = look(transaction, job)
    assert (after.state, after.fence, after.metrics) == ("running", new.fence, [])


def test_lost_workers_are_counted_and_capped(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    for _ in range(3):
        must_take(transaction, lease=-1)
        with transaction() as session:
            assert jobs.requeue_expired(session, max_failures=3, backoff_seconds=0) == [job.id]
    end = look(transaction, job)
    assert (end.state, end.failures, end.error) == ("failed", 3, describe_failure("worker_lost"))
    assert take(transaction) is None


def test_a_lease_that_holds_is_not_reaped(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    new_job()
    claim = must_take(transaction, lease=0.05)
    with transaction() as session:
        jobs.heartbeat(session, claim, LEASE)
    time.sleep(0.1)
    with transaction() as session:
        assert jobs.requeue_expired(session, max_failures=3, backoff_seconds=0) == []


def test_back_off_delays_the_next_claim(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    with transaction() as session:
        jobs.retry_or_fail(
            session, must_take(transaction), describe_failure("engine_crashed"), max_failures=3, backoff_seconds=60
        )
    assert take(transaction) is None
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(not_before=now(-1)))
    assert must_take(transaction).job.attempt == 2


def test_draining_charges_no_failure(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    claim = must_take(transaction)
    with transaction() as session:
        jobs.release(session, claim)
    assert (look(transaction, job).state, look(transaction, job).failures) == ("queued", 0)


def test_cancel_of_a_waiting_job_is_immediate(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    with transaction() as session:
        assert jobs.cancel(session, job.team_id, job.id).state == "cancelled"
    assert take(transaction) is None


def test_cancel_of_a_running_job_comes_with_the_heartbeat(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    claim = must_take(transaction)
    with transaction() as session:
        assert jobs.cancel(session, job.team_id, job.id).state == "running"
    with transaction() as session:
        assert jobs.heartbeat(session, claim, LEASE).cancel
        jobs.mark_cancelled(session, claim)
    with transaction() as session:
        assert jobs.cancel(session, job.team_id, job.id).state == "cancelled"  # asking again is harmless


def test_cancel_after_the_end_is_refused(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    with transaction() as session:
        jobs.finish(session, must_take(transaction), {"version": 1}, [])
    with pytest.raises(WrongState), transaction() as session:
        jobs.cancel(session, job.team_id, job.id)
    with transaction() as session:
        again = jobs.retry(session, job.team_id, job.id)
    assert (again.state, again.retry_of) == ("queued", job.id)


def test_a_cancelled_job_whose_worker_is_lost_ends_cancelled(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    must_take(transaction, lease=-1)
    with transaction() as session:
        jobs.cancel(session, job.team_id, job.id)
    with transaction() as session:
        jobs.requeue_expired(session, max_failures=3, backoff_seconds=0)
    assert look(transaction, job).state == "cancelled"


WRITES: dict[str, Callable[[Session, fencing.Claim], None]] = {
    "drained": jobs.release,
    "set back": lambda session, claim: jobs.retry_or_fail(
        session, claim, describe_failure("engine_crashed"), max_failures=3, backoff_seconds=0
    ),
}


@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancel first", "cancel second"])
@pytest.mark.parametrize("write", WRITES)
def test_a_cancel_that_meets_a_job_on_its_way_back_ends_it(
    write: str, cancel_first: bool, transaction: SessionMaker, new_job: Callable[..., Job]
) -> None:
    job = new_job()
    claim = must_take(transaction)
    acts: list[Callable[[Session], object]] = [
        lambda session: jobs.cancel(session, job.team_id, job.id),
        lambda session: WRITES[write](session, claim),
    ]
    first, second = acts if cancel_first else reversed(acts)

    def follow() -> None:
        with transaction() as session:
            second(session)

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            first(session)
            waiting = pool.submit(follow)
            with suppress(TimeoutError):
                waiting.result(0.5)  # it has begun, and waits for us
        waiting.result(60)
    assert look(transaction, job).state == "cancelled"


TOLD = {"stage": "distilled", "phase": "export", "step": 0, "total": 1, "fraction": 0.93, "eta_seconds": 48.0}


def tell(transaction: SessionMaker, claim: fencing.Claim) -> None:
    with transaction() as session:
        jobs.heartbeat(session, claim, LEASE, progress=TOLD)


def test_a_job_that_ended_well_is_done_to_the_end(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    claim = must_take(transaction)
    tell(transaction, claim)
    with transaction() as session:
        jobs.finish(session, claim, {"version": 1}, [])
    assert look(transaction, job).progress == {**TOLD, "fraction": 1.0, "eta_seconds": 0.0}


ENDS: dict[str, Callable[[Session, fencing.Claim], object]] = {
    "failed": lambda session, claim: jobs.fail(session, claim, describe_failure("engine_crashed")),
    "cancelled": jobs.mark_cancelled,
    "given up": lambda session, claim: jobs.retry_or_fail(
        session, claim, describe_failure("engine_crashed"), max_failures=1, backoff_seconds=0
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_job_that_ends_before_its_work_has_nothing_left_to_wait_for(
    end: str, transaction: SessionMaker, new_job: Callable[..., Job]
) -> None:
    job = new_job()
    claim = must_take(transaction)
    tell(transaction, claim)
    with transaction() as session:
        ENDS[end](session, claim)
    ended = look(transaction, job)
    assert ended.state == ("cancelled" if end == "cancelled" else "failed")
    assert ended.finished_at is not None
    assert ended.progress == {**TOLD, "eta_seconds": None}


def test_the_outcome_is_final_even_for_plain_sql(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    claim = must_take(transaction)
    with transaction() as session:
        stage_results.record_stage(session, claim, row(), "p", [], [])
        jobs.finish(session, claim, {"version": 1}, [])
    for statement in (
        "UPDATE jobs SET state = 'queued'",
        "UPDATE jobs SET report = NULL",
        "DELETE FROM metrics",
        "UPDATE metrics SET parameters = 1",
    ):
        with pytest.raises(DBAPIError, match="final"), transaction() as session:
            session.execute(text(statement))
    with transaction() as session:
        session.execute(text('UPDATE jobs SET labels = \'{"a": "b"}\''))
    assert look(transaction, job).labels == {"a": "b"}


@pytest.mark.parametrize("out_of", [True, False], ids=["out of it", "into it"])
def test_metrics_are_not_moved_between_a_finished_job_and_another(
    out_of: bool, transaction: SessionMaker, new_job: Callable[..., Job]
) -> None:
    new_job(), new_job()
    over, running = must_take(transaction), must_take(transaction)
    with transaction() as session:
        stage_results.record_stage(session, over if out_of else running, row(), "p", [], [])
        jobs.finish(session, over, {}, [])
    move = update(Metric).values(job_id=(running if out_of else over).job.id)
    with pytest.raises(DBAPIError, match="final"), transaction() as session:
        session.execute(move)
    third = new_job()
    with transaction() as session:  # between two that are not over it is nobody's matter
        session.execute(update(Metric).where(Metric.job_id == running.job.id).values(job_id=third.id))


def test_events_have_a_gapless_sequence(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    claim = must_take(transaction)
    with transaction() as session:
        for n in range(3):
            jobs.record_event(session, claim, "log", {"n": n})
        stage_results.record_stage(session, claim, row(), "p", [], [])
        jobs.finish(session, claim, {}, [])
    with transaction() as session:
        events = session.scalars(select(Event).where(Event.job_id == job.id).order_by(Event.seq)).all()
    assert [event.seq for event in events] == list(range(1, 8))
    assert [event.type for event in events] == ["queued", "claimed", "log", "log", "log", "stage_finished", "succeeded"]


def test_a_stage_that_is_done_again_replaces_its_row(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    claim = must_take(transaction)
    for _ in range(2):
        with transaction() as session:
            stage_results.record_stage(session, claim, row(), "p", [{"path": "x", "size": 1, "sha256": "0"}], [])
    with transaction() as session:
        assert len(session.scalars(select(Metric).where(Metric.job_id == job.id)).all()) == 1
        assert [done.stage for done in stage_results.list_checkpoints(session, job.id)] == ["baseline"]


def test_another_team_sees_nothing(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job, other = new_job("a"), new_job("b")
    for act in (jobs.get, jobs.cancel, jobs.retry, jobs.delete_job):
        with pytest.raises(NotFound), transaction() as session:
            act(session, other.team_id, job.id)


def test_only_a_job_that_is_over_can_be_deleted(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    with pytest.raises(WrongState), transaction() as session:
        jobs.delete_job(session, job.team_id, job.id)
    with transaction() as session:
        jobs.cancel(session, job.team_id, job.id)
        jobs.delete_job(session, job.team_id, job.id)
    with pytest.raises(NotFound), transaction() as session:
        jobs.get(session, job.team_id, job.id)


def test_a_rollback_rings_nobody(transaction: SessionMaker, new_job: Callable[..., Job]) -> None:
    job = new_job()
    with pytest.raises(ZeroDivisionError), transaction() as session:
        jobs.cancel(session, job.team_id, job.id)
        jobs.retry(session, job.team_id, job.id)
        assert session.info["wake"] == {"jobs"}
        raise ZeroDivisionError
    assert "wake" not in session.info
    assert look(transaction, job).state == "queued"
