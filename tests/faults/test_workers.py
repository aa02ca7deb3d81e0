"""Workers and engines that freeze, are told to stop, or take too much."""

import signal

import psutil

from tests.conftest import wait_for
from tests.faults.conftest import LONG, OVER, PATIENCE, POSTGRES, SHORT, SQLITE, Stand
from tests.support.processes import lives


def suspend(stand: Stand, name: str) -> list[psutil.Process]:
    """Freeze a worker with all that belongs to it, as a machine that is paused does."""
    everyone = [psutil.Process(stand.service.processes[name].pid), *stand.family(name)]
    for process in everyone:
        process.suspend()
    return everyone


@POSTGRES
def test_a_worker_that_wakes_after_its_lease_changes_nothing(stand: Stand) -> None:
    sleeper = stand.start_worker()
    job_id = stand.job(SHORT)
    stand.reached(job_id, "started")
    engine = stand.engine_of(sleeper)
    frozen = suspend(stand, sleeper)
    stand.start_worker(LATHE_MEASURE_WAIT_SECONDS="5")  # the sleeper may hold the lock
    assert stand.over(job_id)["attempt"] > 1
    told, artifacts = stand.events(job_id), stand.http.get(f"/v1/jobs/{job_id}/artifacts").json()
    for process in reversed(frozen):
        process.resume()
    wait_for(lambda: not lives(engine))
    stand.nothing_runs()
    stand.bytes_are_those_of_rows()
    assert stand.events(job_id) == told
    assert stand.http.get(f"/v1/jobs/{job_id}/artifacts").json() == artifacts


@SQLITE
def test_an_engine_that_hangs_is_stopped_and_the_job_tried_again(stand: Stand) -> None:
    impatient = stand.start_worker(LATHE_STALL_SECONDS="3")
    job_id = stand.job(LONG)
    engine = stand.engine_of(impatient)
    engine.suspend()
    wait_for(lambda: "engine_stalled" in [event["data"].get("code") for event in stand.events(job_id)], 120)
    stand.service.kill(impatient)
    assert not lives(engine)
    stand.start_worker()
    stand.taken(job_id, attempt=2)


@POSTGRES
def test_a_cancel_at_the_last_moment_ends_in_one_of_two_ways(stand: Stand) -> None:
    stand.start_worker()
    job_id = stand.job(SHORT)
    stand.reached(job_id, "stage_finished")
    assert stand.http.post(f"/v1/jobs/{job_id}/cancel").status_code in {202, 409}
    wait_for(lambda: stand.show(job_id)["state"] in OVER, PATIENCE)
    assert stand.over(job_id, stand.show(job_id)["state"])["state"] in {"succeeded", "cancelled"}
    stand.nothing_runs()
    stand.bytes_are_those_of_rows()


@SQLITE
def test_a_drained_workers_training_goes_on_where_it_was(stand: Stand) -> None:
    leaving = stand.start_worker(LATHE_LEASE_SECONDS="20")
    job_id = stand.job(LONG)
    wait_for(lambda: ((stand.show(job_id)["progress"] or {}).get("step") or 0) > 20, 240)
    stand.service.processes[leaving].send_signal(signal.SIGTERM)
    stand.wait_end(leaving)
    given_back = stand.show(job_id)
    assert (given_back["state"], given_back["failures"]) == ("queued", 0)
    saved = [event["data"] for event in stand.events(job_id) if event["type"] == "training_saved"]
    assert saved
    assert saved[-1]["step"] > 20
    stand.start_worker()
    before = len(stand.events(job_id))
    wait_for(lambda: stand.show(job_id)["progress"], 240)
    assert stand.show(job_id)["progress"]["step"] >= saved[-1]["step"]
    logged = [event["data"]["message"] for event in stand.events(job_id)[before:] if event["type"] == "log"]
    assert any(str(saved[-1]["step"]) in line for line in logged), logged


@SQLITE
def test_a_job_that_takes_too_much_memory_is_tried_once_more_in_smaller_parts(stand: Stand) -> None:
    first, second = stand.job(SHORT), stand.job(LONG)
    stand.foretell(1 << 20)  # or no such worker would take them
    name = stand.start_worker(LATHE_ENGINE_MEMORY_BYTES=str(50 << 20), LATHE_LEASE_SECONDS="20")
    failed = stand.over(first, "failed")
    assert (failed["error"]["code"], failed["attempt"], failed["failures"]) == ("out_of_memory", 2, 1)
    # The worker itself is well, and what it learnt of one job it does not hold against another.
    stand.reached(second, "claimed", "failed")
    assert stand.service.processes[name].poll() is None
    assert stand.show(second)["attempt"] == 2
