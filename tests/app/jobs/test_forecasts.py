"""Forecasts learn from finished jobs of the same machine and kind, and are those of the fastest worker that could take it."""

from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.jobs import fencing, forecasts, jobs, stage_results
from app.pages.dashboard.formatting import forecast_text
from app.store.clock import now
from app.store.device_models import JobTimes
from app.store.models import Event, Job, Metric, Worker
from client.terminal.render import time_text
from compression.planning.estimator import Estimate
from compression.planning.rates import REFERENCE
from compression.planning.work import Work, time_work
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.preparation import Preparation
from tests.app.conftest import NewJob, SessionMaker
from tests.app.jobs.test_jobs import do, look, must_take
from tests.support.unmeasured import unmeasured

WORK = (
    Work(stage="baseline", plain_flops=100 * REFERENCE.bfloat16, steps=50),  # 100 s on two cores
    Work(stage="quantized", seconds=20),
    Work(stage="export", seconds=40),
)
SIZES = {"memory_bytes": 10**9, "card_bytes": 10**9, "host_bytes_with_card": 10**9, "disk_bytes": 1}
FOUND = Estimate(**SIZES, minutes=2.7, training_minutes=1.7, work=WORK)
TASK = "text-classification"
FACTS = {"cores": 2, "processor": "A processor", "threads": None, "memory_bytes": 4 * 10**9}
FAST = {"kind": "cpu", "name": "Fast", "rates": {"float32": 1e13, "bfloat16": 2e13, "bytes": 1e12}}


def start_worker(session: Session, name: str = "w", **facts: Any) -> None:
    session.add(Worker(id=name, kind="jobs", host="h", pid=1, facts={**FACTS, **facts}))


def teach(transaction: SessionMaker, new_job: NewJob, **values: Any) -> Job:
    """Run a job whose baseline takes 300 s, its integers 50 s and its end 200 s."""
    job = new_job(**{"forecast": forecasts.stored(FOUND), **values})
    run(transaction, must_take(transaction))
    return job


def run(transaction: SessionMaker, claim: fencing.Claim, preparation: Preparation | None = None) -> None:
    do(transaction, jobs.record_event, claim, "started", {})
    for stage, own in (("baseline", {"preparation": preparation}), ("quantized", {})):
        do(transaction, stage_results.record_stage, claim, unmeasured(stage, **own), stage, [], [])
    with transaction() as session:
        mine = (Event.job_id == claim.job.id, Event.type == "started")
        session.execute(update(Event).where(*mine).values(at=now(-550)))
        for stage, ago in (("baseline", 250), ("quantized", 200)):
            row = (Metric.job_id == claim.job.id, Metric.stage == stage)
            session.execute(update(Metric).where(*row).values(created_at=now(-ago)))
    do(transaction, jobs.finish, claim, {}, [])


def known(transaction: SessionMaker) -> list[JobTimes]:
    with transaction() as session:
        return list(session.scalars(select(JobTimes)))


def test_a_finished_job_teaches_what_its_stages_took(transaction: SessionMaker, new_job: NewJob) -> None:
    do(transaction, start_worker)
    job = teach(transaction, new_job)
    (times,) = known(transaction)
    assert (times.job_id, times.machine, times.threads, times.kind) == (job.id, "A processor", 2, f"{TASK}, rates not measured")
    expected = {"baseline": (100, 300), "quantized": (20, 50), "export": (40, 200)}
    assert {stage: tuple(pair) for stage, pair in times.stages.items()} == {
        stage: pytest.approx(pair, rel=0.05) for stage, pair in expected.items()
    }


def test_epochs_that_were_not_needed_say_nothing_of_the_machine(transaction: SessionMaker, new_job: NewJob) -> None:
    do(transaction, start_worker)
    work = (WORK[0].model_copy(update={"epochs": 10}), *WORK[1:])
    new_job(forecast=forecasts.stored(FOUND.model_copy(update={"work": work})))
    trained = Preparation(converged=True, reason="a test", epochs=6, best_epoch=4)
    run(transaction, must_take(transaction), preparation=trained)
    (times,) = known(transaction)
    assert times.stages["baseline"] == pytest.approx((60, 300), rel=0.05)


def test_a_card_learns_nothing_from_jobs_of_before_its_products_were_told_apart() -> None:
    rates = {"float32": 1e13, "bfloat16": 2e14, "bytes": 1e12}
    found = [forecasts.Machine.of({**FACTS, "device": {"kind": kind, "name": "x", "rates": rates}}) for kind in ("cpu", "cuda")]
    assert [forecasts.kind_of(TASK, WORK, machine) for machine in found if machine] == [TASK, f"{TASK}, by products"]


def test_later_forecasts_are_corrected_and_tell_from_how_many_jobs(transaction: SessionMaker, new_job: NewJob) -> None:
    do(transaction, start_worker)
    assert do(transaction, forecasts.corrected, FOUND, TASK, Recipe()).jobs == 0
    for _ in range(3):
        teach(transaction, new_job)
    found = do(transaction, forecasts.corrected, FOUND, TASK, Recipe())
    assert (found.jobs, found.machine) == (3, "A processor")
    assert found.minutes == pytest.approx(550 / 60, rel=0.2)
    assert found.training_minutes == pytest.approx(300 / 60, rel=0.2)
    assert found.minutes_low <= 550 / 60 * 1.05
    assert found.minutes_high >= 550 / 60 * 0.95
    assert (found.memory_bytes, found.work) == (FOUND.memory_bytes, FOUND.work)
    limited = do(transaction, forecasts.corrected, FOUND, TASK, Recipe(train=Train(max_minutes=1.0)))
    assert limited.training_minutes == 1.0
    # Others' times say nothing of other kinds of jobs.
    for task, other in (("causal-lm", FOUND), (TASK, FOUND.model_copy(update={"work": WORK[1:]}))):
        assert do(transaction, forecasts.corrected, other, task, Recipe()).jobs == 0


@pytest.mark.parametrize(
    "values",
    [
        {"forecast": None},
        {"recipe": {"train": {"max_minutes": 5.0}}},
        {"evaluate": {"lm_eval": {"tasks": ["x"]}}},
        {"forecast": {"estimate": {}, "work": [{"stage": "baseline", "of_another_version": 1}]}},
    ],
)
def test_what_no_forecast_covers_teaches_nothing(values: dict[str, Any], transaction: SessionMaker, new_job: NewJob) -> None:
    do(transaction, start_worker)
    job = teach(transaction, new_job, **values)
    assert look(transaction, job).state == "succeeded"
    assert not known(transaction)


def test_a_gpu_that_scores_an_artifact_s_format_is_forecast_to(transaction: SessionMaker) -> None:
    scored = Work(stage="baseline", encoder_flops=1e13, format="onnx")
    found = Estimate(**SIZES, minutes=1.0, training_minutes=0.0, work=(scored,))
    card = {**FAST, "kind": "cuda", "memory_bytes": 10**11}
    do(transaction, start_worker, device=card)
    slow = do(transaction, forecasts.corrected, found, TASK, Recipe()).minutes
    with transaction() as session:
        session.execute(update(Worker).values(facts={**FACTS, "device": {**card, "scores": ["onnx"]}}))
    assert do(transaction, forecasts.corrected, found, TASK, Recipe()).minutes < slow / 10


def test_jobs_of_several_attempts_and_of_unknown_machines_teach_nothing(transaction: SessionMaker, new_job: NewJob) -> None:
    teach(transaction, new_job)  # by a worker without a row
    do(transaction, start_worker, processor=None)
    teach(transaction, new_job)
    with transaction() as session:
        session.execute(update(Worker).values(facts=FACTS))
    new_job(forecast=forecasts.stored(FOUND))
    must_take(transaction, lease=-1)
    do(transaction, jobs.requeue_expired, max_failures=3, backoff_seconds=0)
    run(transaction, must_take(transaction))
    do(transaction, jobs.release, _claimed_again(transaction, new_job))
    run(transaction, must_take(transaction))
    assert not known(transaction)


def _claimed_again(transaction: SessionMaker, new_job: NewJob) -> fencing.Claim:
    new_job(forecast=forecasts.stored(FOUND))
    return must_take(transaction)


def test_jobs_on_several_devices_teach_those_alone(transaction: SessionMaker, new_job: NewJob) -> None:
    do(transaction, start_worker, train_devices=2)
    both = FOUND.model_copy(update={"work": tuple(one.model_copy(update={"devices": 2}) for one in WORK)})
    teach(transaction, new_job, forecast=forecasts.stored(both))
    recipe = Recipe(train=Train(devices=2))
    assert do(transaction, forecasts.corrected, both, TASK, recipe).jobs == 1
    assert do(transaction, forecasts.corrected, FOUND, TASK, Recipe()).jobs == 0


def test_waiting_for_devices_is_no_work(transaction: SessionMaker, new_job: NewJob) -> None:
    do(transaction, start_worker)
    teach(transaction, new_job, evaluate={"devices": ["pi"]})
    (times,) = known(transaction)
    assert set(times.stages) == {"baseline", "quantized"}


def test_the_fastest_worker_that_could_take_it_is_forecast(transaction: SessionMaker) -> None:
    assert do(transaction, forecasts.corrected, FOUND, TASK, Recipe()) == FOUND
    do(transaction, start_worker, "small", device=FAST, memory_bytes=10**8)
    assert do(transaction, forecasts.corrected, FOUND, TASK, Recipe()) == FOUND
    do(transaction, start_worker, "plain")
    plain = do(transaction, forecasts.corrected, FOUND, TASK, Recipe())
    assert (plain.machine, plain.minutes) == ("A processor", round(time_work(WORK, REFERENCE).total / 60, 1))
    do(transaction, start_worker, "fast", device=FAST)
    fast = do(transaction, forecasts.corrected, FOUND, TASK, Recipe())
    assert (fast.machine, fast.jobs) == ("Fast", 0)
    assert 1.0 <= fast.minutes < 0.5 * plain.minutes  # the rest takes a minute there too
    with transaction() as session:
        session.execute(update(Worker).where(Worker.id == "fast").values(seen_at=now(-3600)))
    assert do(transaction, forecasts.corrected, FOUND, TASK, Recipe()) == plain


def test_a_forecast_is_told_with_its_spread() -> None:
    spread = {"minutes_low": 12.0, "minutes_high": 19.5}
    found = FOUND.model_copy(update={"minutes": 15.0, "jobs": 7, "machine": "AMD EPYC", **spread})
    assert forecast_text(found) == "15 min, 12 min to 19 min from 7 jobs"
    assert time_text(found.model_dump()) == "15 minutes on AMD EPYC (12 to 19.5, from 7 jobs there)"
    once = found.model_copy(update={"jobs": 1, "minutes_low": None, "minutes_high": None})
    assert (forecast_text(once), time_text(once.model_dump())) == (
        "15 min, from 1 job",
        "15 minutes on AMD EPYC (from 1 job there)",
    )
    assert (forecast_text(FOUND), time_text(FOUND.model_dump())) == ("2 min 42 s", "2.7 minutes on two cores")
