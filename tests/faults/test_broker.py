"""The broker carries wake-ups only: without it jobs are accepted as quickly as ever, and end a little later."""

import signal
import threading
import time

import psutil
import pytest

from app.core.settings import Settings
from app.store.broker import JOBS, WakeUpSender
from tests.conftest import wait_for
from tests.faults.conftest import LONG, SHORT, SQLITE, Stand

SILENCE = 5.0
"""Less than any try of ours to talk to a broker that says nothing may take (app/store/broker.py)."""


def at_rest(process: psutil.Process) -> bool:
    """Whether a process did nothing, and wanted to do nothing, for two seconds."""
    before = process.cpu_times()
    for _ in range(20):
        time.sleep(0.1)
        if process.status() != psutil.STATUS_SLEEPING:
            return False
    return process.cpu_times() == before


@SQLITE
def test_jobs_end_though_the_broker_is_killed_restarted_and_flushed(stand: Stand) -> None:
    stand.start_worker()
    running = stand.job(LONG)
    stand.reached(running, "claimed")
    stand.valkey.kill()
    accepted = stand.job(LONG)
    stand.valkey.start()
    flushed = stand.job(LONG)
    stand.valkey.flush()
    for job_id in (running, accepted, flushed):
        stand.taken(job_id)


def test_submitting_does_not_wait_for_a_broker_that_says_nothing(stand: Stand) -> None:
    stand.broker.swallow()
    waiting, took = list[str](), list[float]()
    for _ in range(5):
        begun = time.monotonic()
        waiting.append(stand.job(SHORT))
        took.append(time.monotonic() - begun)
    assert sorted(took)[2] < SILENCE, took  # who waits for the broker waits each time
    assert {stand.show(job_id)["state"] for job_id in waiting} == {"queued"}


@SQLITE
def test_a_worker_takes_new_work_though_its_connections_died_without_a_word(stand: Stand) -> None:
    name = stand.start_worker()
    stand.taken(stand.job(LONG))
    # What a middlebox does that forgot the connections of the API, the keeper and the idle worker: nobody is told.
    stand.broker.forsake()
    job_id = stand.job(LONG)
    stand.taken(job_id)
    assert stand.service.processes[name].poll() is None
    assert stand.show(job_id)["attempt"] == 1


@SQLITE
def test_a_worker_takes_new_work_after_the_broker_was_a_black_hole(stand: Stand) -> None:
    name = stand.start_worker()
    stand.taken(stand.job(LONG))
    stand.broker.swallow()
    log = stand.service.log
    wait_for(lambda: "Cannot connect" in log(name), 300)  # it has noticed, and what it connects to swallows as well
    job_id = stand.job(LONG)
    stand.broker.heal()
    stand.taken(job_id)


@SQLITE
@pytest.mark.parametrize("deafness", ["its consumer hangs", "its child hangs"])
def test_a_worker_that_hears_nothing_begins_anew(stand: Stand, deafness: str) -> None:
    # Five seconds of silence are as deaf as half a minute.
    name = stand.start_worker(LATHE_RING_SECONDS="1", CELERY_RDBSIG="1")
    stand.taken(stand.job(LONG))
    process = stand.service.processes[name]
    if deafness == "its child hangs":
        child = wait_for(lambda: psutil.Process(process.pid).children())[0]
        wait_for(lambda: at_rest(child), 120)  # or it would hang with SQLite's write lock in its hand
        child.suspend()
    else:
        # As after a lost connection that Celery's consumer did not come back from: it lives, and takes no message. Celery's
        # debugger holds its thread, and waits for somebody to connect.
        process.send_signal(signal.SIGUSR2)
        worker = psutil.Process(process.pid)
        wait_for(lambda: any(one.status == psutil.CONN_LISTEN for one in worker.net_connections("tcp")), 60)
    job_id = stand.job(LONG)
    stand.taken(job_id)
    assert process.poll() is None  # whoever has started it need not notice
    assert stand.show(job_id)["attempt"] == 1
    assert '"event": "deaf"' in stand.service.log(name)


@SQLITE
def test_a_ring_that_nobody_hears_holds_nobody_up(stand: Stand) -> None:
    stand.broker.swallow()
    bell = WakeUpSender(Settings(broker_url=stand.service.broker))
    rung = threading.Event()

    def ring() -> None:
        for _ in range(100):
            bell.send_soon(JOBS)
        rung.set()

    threading.Thread(target=ring, daemon=True).start()
    assert rung.wait(60)  # if each waited for the broker, they would take minutes
    wait_for(lambda: bell.lost, 120)  # and each is given up in the end, or the thread would hang for ever
    assert bell.sent == 0
    stand.broker.heal()
    bell.send_soon(JOBS)
    wait_for(lambda: bell.sent, 120)
