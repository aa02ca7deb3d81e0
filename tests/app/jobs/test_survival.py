"""Writes that come twice, jobs that come too late, and what nobody holds any more."""

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import InternalError
from sqlalchemy.orm import Session

from app.core.failures import describe_failure
from app.jobs import fencing, jobs, queue_forecast, stage_results
from app.jobs.capacity import Capacity
from app.store.clock import now
from app.store.db import IDLE_SECONDS, make_engine
from app.store.models import Checkpoint, Event, Job, Worker
from compression.schema.report.measurements import NotMeasured
from compression.schema.report.report import Artifact
from tests.app.conftest import NewJob, SessionMaker
from tests.app.jobs.test_jobs import LEASE, do, look, must_take, take
from tests.conftest import Database, wait_for
from tests.support.unmeasured import unmeasured


def test_a_write_that_comes_twice_is_told_once(transaction: SessionMaker, held: fencing.Claim) -> None:
    saved = [{"path": "x", "size": 1, "sha256": "0" * 64}]
    writes = [
        lambda s: jobs.record_event(s, held, "log", {"message": "a"}, origin="1.1"),
        lambda s: stage_results.record_training(s, held, "p1", saved, {"step": 3}, origin="1.2"),
        lambda s: stage_results.record_stage(s, held, unmeasured(), "p2", saved, [], origin="1.3"),
        lambda s: jobs.finish(s, held, {"headline": "x"}, []),
    ]
    for write in writes:
        for _ in range(2):  # the first reply was lost
            do(transaction, write)
    kinds = ["queued", "claimed", "log", "training_saved", "stage_finished", "succeeded"]
    with transaction() as session:
        told = session.execute(select(Event.seq, Event.type).where(Event.job_id == held.job.id).order_by(Event.seq)).all()
    assert told == list(enumerate(kinds, start=1))
    after = look(transaction, held.job)
    assert (after.state, len(after.metrics)) == ("succeeded", 1)


def test_a_finish_of_an_older_fence_is_refused_though_the_job_succeeded(transaction: SessionMaker, new_job: NewJob) -> None:
    job, old = new_job(), must_take(transaction, lease=-1)
    do(transaction, jobs.requeue_expired, max_failures=3, backoff_seconds=0)
    new = must_take(transaction)
    do(transaction, jobs.finish, new, {"by": "new"}, [])
    with pytest.raises(fencing.StaleFence), transaction() as session:
        jobs.finish(session, old, {"by": "old"}, [])
    assert look(transaction, job).report == {"by": "new"}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_silence_within_a_transaction_loses_a_job(database: Database, transaction: SessionMaker, new_job: NewJob) -> None:
    job, claim = new_job(), must_take(transaction, lease=-1)

    def reaped() -> list[str]:
        return do(transaction, jobs.requeue_expired, max_failures=3, backoff_seconds=0)

    engine = make_engine(database.url, idle_seconds=10)
    with Session(engine) as silent:
        jobs.record_event(silent, claim, "log", {"message": "never committed"})
        assert reaped() == []  # the row is locked
        assert wait_for(reaped) == [job.id]
        with pytest.raises(InternalError):
            silent.commit()
    engine.dispose()
    with transaction() as session:
        assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == f"{IDLE_SECONDS}s"


def test_saved_training_is_replaced_and_goes_with_its_stage(transaction: SessionMaker, held: fencing.Claim) -> None:
    for number in (1, 2):
        do(transaction, stage_results.record_training, held, f"p{number}", [], {"step": number}, origin=f"1.{number}")
    with transaction() as session:
        assert [(c.stage, c.prefix) for c in stage_results.list_checkpoints(session, held.job.id)] == [("training", "p2")]
        stage_results.record_stage(session, held, unmeasured(), "p3", [{"path": "x", "size": 1, "sha256": "0" * 64}], [])
    with transaction() as session:
        assert [c.stage for c in session.scalars(select(Checkpoint))] == ["baseline"]


def made(name: str, stage: str = "baseline", part: str | None = None) -> tuple[Artifact, dict[str, str]]:
    facts = {"name": name, "kind": "onnx", "stage": stage, "precision": "float32", "files": [], "opens_with": "x", "part": part}
    return Artifact.model_validate({**facts, "score": NotMeasured(not_measured="a test")}), {}


def test_what_other_datasets_and_stages_shipped_stays(transaction: SessionMaker, held: fencing.Claim) -> None:
    def names() -> set[str]:
        with transaction() as session:
            return stage_results.list_results(session, held.job.id)[1]

    def finished(number: int, part: str, *names: str) -> None:
        brought = [made(name, part=part) for name in names]
        do(transaction, stage_results.record_part, held, f"baseline.{number}", "p", [], brought, {})

    finished(0, "mood", "a-mood")
    finished(1, "joy", "a-joy")
    with transaction() as session:
        stage_results.record_stage(session, held, unmeasured(), "p", [], [])  # all came with its parts
        stage_results.record_stage(session, held, unmeasured("quantized"), "p", [], [made("q-mood", "quantized", "mood")])
    assert names() == {"a-mood", "a-joy", "q-mood"}
    finished(0, "mood", "b-mood", "c-mood")
    finished(1, "joy")  # an earlier attempt had done it
    assert names() == {"b-mood", "c-mood", "a-joy", "q-mood"}


def test_a_waiting_job_whose_deadline_passed_fails_and_is_not_claimed(transaction: SessionMaker, new_job: NewJob) -> None:
    late, calm = new_job(deadline_seconds=3600), new_job(deadline_seconds=3600)
    with transaction() as session:
        session.execute(update(Job).where(Job.id == late.id).values(deadline_at=now(-1)))
    assert must_take(transaction).job.id == calm.id
    assert take(transaction) is None
    with transaction() as session:
        assert jobs.fail_overdue(session) == [late.id]
        assert jobs.fail_overdue(session) == []
    after = look(transaction, late)
    assert (after.state, (after.error or {})["code"]) == ("failed", "deadline_exceeded")


def test_a_running_jobs_worker_hears_of_the_deadline(transaction: SessionMaker, new_job: NewJob) -> None:
    job = new_job(deadline_seconds=3600)
    claim = must_take(transaction)
    with transaction() as session:
        assert not jobs.heartbeat(session, claim, LEASE).overdue
        session.execute(update(Job).where(Job.id == job.id).values(deadline_at=now(-1)))
        assert jobs.heartbeat(session, claim, LEASE).overdue


def test_a_retry_asks_for_the_same_and_its_deadline_counts_anew(transaction: SessionMaker, new_job: NewJob) -> None:
    old = new_job(deadline_seconds=3600, priority=3, memory_bytes=7, disk_bytes=8)
    with transaction() as session:
        session.execute(update(Job).where(Job.id == old.id).values(deadline_at=now(-1)))
    do(transaction, jobs.fail_overdue)
    with transaction() as session:
        new = jobs.retry(session, old.team_id, old.id)
        assert (new.deadline_seconds, new.priority, new.memory_bytes, new.disk_bytes) == (3600, 3, 7, 8)
        assert session.scalar(select(Job.deadline_at > now()).where(Job.id == new.id))


def test_a_job_waits_for_a_worker_that_has_the_memory(transaction: SessionMaker, new_job: NewJob) -> None:
    large, small = new_job(priority=5, memory_bytes=100), new_job(memory_bytes=10)
    with transaction() as session:
        claim = jobs.claim(session, "small", LEASE, Capacity("cpu", 50))
        assert claim.job.id == small.id
        assert jobs.claim(session, "small", LEASE, Capacity("cpu", 50)) is None
        claim = jobs.claim(session, "large", LEASE, Capacity("cpu", 100))
        assert claim.job.id == large.id


def test_smaller_batches_are_kept_for_the_next_attempt(transaction: SessionMaker, new_job: NewJob) -> None:
    new_job()
    with transaction() as session:
        claim = jobs.claim(session, "w", LEASE)
        assert claim is not None
        error = describe_failure("engine_crashed")
        jobs.retry_or_fail(session, claim, error, max_failures=3, backoff_seconds=0, split_batches=4)
    assert must_take(transaction).job.split_batches == 4


def test_the_queue_tells_place_start_and_what_is_missing(transaction: SessionMaker, new_job: NewJob) -> None:
    busy = [new_job("busy") for _ in range(3)]
    quiet, urgent = new_job("quiet"), new_job("busy", priority=1)

    def places() -> dict[str, queue_forecast.QueuePosition]:
        with transaction() as session:
            found = [session.get_one(Job, job.id) for job in (*busy, quiet, urgent)]
            return {job.id: place for job in found if (place := queue_forecast.find_position(session, job)) is not None}

    order = sorted(places(), key=lambda key: places()[key].position)
    # As claims will go: of two teams with nothing at work the one whose first job is older; within busy, the urgent one first.
    assert order == [quiet.id, urgent.id, *(job.id for job in busy)]
    assert {(place.start_seconds, place.waits_for) for place in places().values()} == {(None, "worker")}
    with transaction() as session:
        session.add(Worker(id="w", kind="jobs", host="h", pid=1, facts={"memory_bytes": 1000}))
        session.execute(update(Job).where(Job.id == busy[2].id).values(memory_bytes=2000))
    assert places()[busy[2].id].waits_for == "memory"
    assert places()[quiet.id].start_seconds == 0
    assert places()[urgent.id].start_seconds is None  # no job has ended yet: nobody knows how long one takes
    done = must_take(transaction)
    assert done.job.id == quiet.id
    with transaction() as session:
        session.execute(update(Job).where(Job.id == done.job.id).values(started_at=now(-100)))
        jobs.finish(session, done, {}, [])
    now_known = places()
    assert quiet.id not in now_known
    starts = [now_known[job.id].start_seconds for job in (urgent, busy[0], busy[1])]
    assert starts == [0, pytest.approx(100, abs=5), pytest.approx(200, abs=10)]
