"""A card that is gone costs an attempt and no job: that goes back to the queue, and the worker takes none until it works."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.core.settings import Settings
from app.jobs import jobs
from app.jobs.capacity import Capacity
from app.store.db import reading, writing
from app.store.models import Dataset, Event, Job, Worker
from app.store.storage import LocalStorage
from compression.schema.errors import DeviceError, DeviceLost
from compression.schema.worker_device import DeviceRates, WorkerDevice
from tests.support.rows import submitted
from workers import device_probe, device_watch, job_inputs, supervisor, tasks
from workers.attempt_ends import Crashed, Failed
from workers.broker_watchdog import ChildActivity
from workers.device_watch import DeviceWatch
from workers.devices import CPU, Device, DeviceAbsent
from workers.registration import Registration, own_capacity

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
LOST_CARD = Device("cuda", "GPU-that-is-gone")
KNOWN = WorkerDevice(kind="cuda", name="NVIDIA A100", memory_bytes=80 << 30, rates=DeviceRates(float32=1e13))


@pytest.fixture
def worker(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Registration:
    """A GPU worker that found its card at its start; the card is not there any more, if it ever was."""
    monkeypatch.setenv("LATHE_WORKER_ID", "")
    for module in (device_probe, job_inputs, supervisor, __import__("workers.registration").registration):
        monkeypatch.setattr(module, "choose_device", lambda _: (LOST_CARD, KNOWN))
    made = Registration("jobs", settings, ChildActivity())
    made.register()
    return made


def a_job(**values: Any) -> str:
    with writing() as session:
        job = submitted(session, device="cuda", **values)
        session.get_one(Dataset, job.dataset_id).data = {"format": "jsonl", "splits": {"train": ["t.jsonl"]}}
        return job.id


def state_of(job: str) -> tuple[str, int, int]:
    with reading() as session:
        row = session.get_one(Job, job)
        return row.state, row.attempt, row.failures


def offered(worker: Registration) -> Capacity | None:
    with reading() as session:
        return own_capacity(session, worker.worker_id)


def test_an_engine_that_finds_no_card_gives_its_job_back_and_the_worker_takes_no_more(
    worker: Registration, settings: Settings, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "get_storage", lambda: storage)
    assert offered(worker) == Capacity("cuda", worker.facts["memory_bytes"], 80 << 30)
    job = a_job()
    tasks.run_jobs()  # a real engine, which finds no GPU, and a real probe, which finds none either
    assert state_of(job) == ("queued", 1, 0)
    with reading() as session:
        (told,) = session.scalars(select(Event.data).where(Event.job_id == job, Event.type == "released"))
        facts = session.get_one(Worker, worker.worker_id).facts
    assert (told["code"], told["worker"]) == ("device_lost", worker.worker_id)
    assert "does not work" in facts["device"]["lost"]
    assert offered(worker) is None
    assert not worker.work_waits()  # or it would ring for what it cannot take
    tasks.run_jobs()
    assert state_of(job) == ("queued", 1, 0)


def ended_with(end: Exception) -> Callable[[Path, Path, int], None]:
    def run(_spec: Path, _folder: Path, _fetched: int) -> None:
        raise end

    return run


class Held:
    """A lease that nobody takes away."""

    def __init__(self) -> None:
        never = type("Never", (), {"is_set": staticmethod(lambda: False)})
        self.lost = self.cancel = self.overdue = self.drain = never


ENDS = {
    "device_lost": Failed(DeviceLost("torch finds none").as_dict()),
    "device_error": Failed(DeviceError("CUDA error: unspecified launch failure").as_dict()),
    "engine_crashed": Crashed("Exit status 125. confinement failed: FileNotFoundError: /dev/nvidia0"),
}


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("code", ENDS)
def test_a_failing_device_is_charged_to_the_job_only_if_it_works_again(
    code: str, works: bool, worker: Registration, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "find_fault", lambda _: None if works else "Xid 79")
    job = a_job()
    with writing() as session:
        claim = jobs.claim(session, worker.worker_id, 60)
    assert claim is not None
    write = supervisor._outcome(claim, worker.settings, storage, Held(), ended_with(ENDS[code]))
    assert write is not None
    with writing() as session:
        write(session)
    # If engine and probe disagree that is counted, or it would never end.
    assert state_of(job) == ("queued", 1, 1 if works else 0)
    with reading() as session:
        assert session.get_one(Job, job).split_batches == (4 if code == "device_error" and works else 1)
        told = session.scalars(select(Event).where(Event.job_id == job).order_by(Event.seq.desc())).first()
    assert told is not None
    assert told.type == ("requeued" if works else "released")
    assert told.data["code"] == (code if works or code == "device_error" else "device_lost")
    assert told.data["remedy"].startswith("Nothing: the job runs again by itself, in ")
    assert (offered(worker) is not None) == works


def test_a_job_that_loses_device_after_device_is_charged(
    worker: Registration, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "find_fault", lambda _: "Xid 79")
    monkeypatch.setattr(supervisor, "GIVEN_BACK", 0)
    job = a_job()
    with writing() as session:
        claim = jobs.claim(session, worker.worker_id, 60)
    assert claim is not None
    write = supervisor._outcome(claim, worker.settings, storage, Held(), ended_with(ENDS["device_lost"]))
    assert write is not None
    with writing() as session:
        write(session)
    assert state_of(job) == ("queued", 1, 1)
    assert offered(worker) is None


def until_found(watch: DeviceWatch, lost: bool) -> WorkerDevice | None:
    found, end = watch.round(lost=lost), time.monotonic() + 10
    while found is None and watch.thread is not None and time.monotonic() < end:
        time.sleep(0.01)
        found = watch.round(lost=lost)
    return found


def test_a_lost_card_is_probed_until_it_works_and_is_then_offered_again(
    worker: Registration, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[WorkerDevice | None] = [None, KNOWN]

    def probe(device: Device, _: Settings) -> WorkerDevice:
        assert device == LOST_CARD
        answer = answers.pop(0)
        if answer is None:
            raise DeviceAbsent("Xid 79")
        return answer

    monkeypatch.setattr(device_watch, "run_probe", probe)
    with writing() as session:
        device_probe.mark_lost(session, worker.worker_id, "Xid 79")
    worker.beat(False)
    assert offered(worker) is None
    assert len(answers) == 2  # not at once
    monkeypatch.setattr(device_watch, "AGAIN_SECONDS", 0.0)
    end = time.monotonic() + 30
    while offered(worker) is None and time.monotonic() < end:
        worker.beat(False)
        time.sleep(0.01)
    assert answers == []
    assert offered(worker) == Capacity("cuda", worker.facts["memory_bytes"], 80 << 30)
    worker.beat(False)
    with reading() as session:
        assert session.get_one(Worker, worker.worker_id).facts["device"]["lost"] is None


def test_a_cpu_is_measured_once_it_idles_and_not_while_a_job_runs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    unmeasured, measured = (
        WorkerDevice(kind="cpu", name="x", memory_bytes=1, rates=r) for r in (None, DeviceRates(float32=1.0))
    )
    monkeypatch.setattr(device_watch, "run_probe", lambda *_: measured)
    activity = ChildActivity()
    watch = DeviceWatch(settings, activity, (CPU, unmeasured))
    assert watch.round(lost=False) is None
    assert watch.thread is None  # it has not idled for long
    monkeypatch.setattr(device_watch, "IDLE_SECONDS", 0.0)
    with activity.at_work():
        assert watch.round(lost=False) is None
        assert watch.thread is None
    monkeypatch.setattr(device_watch, "BUSY", -1.0)
    for _ in range(3):  # others compute, and that for long
        assert watch.round(lost=False) is None
        assert watch.thread is None
    monkeypatch.setattr(device_watch, "BUSY", 101.0)
    watch.round(lost=False)  # it has looked for work since: idle from now on
    assert until_found(watch, lost=False) == measured
    assert watch.round(lost=False) is None
    assert watch.thread is None  # once


@pytest.mark.parametrize("device", [CPU, Device("cuda", "GPU-1")])
def test_what_is_measured_while_a_job_begins_does_not_count(
    device: Device, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity = ChildActivity()

    def probe(*_: object) -> WorkerDevice:
        with activity.at_work():
            return KNOWN

    monkeypatch.setattr(device_watch, "run_probe", probe)
    monkeypatch.setattr(device_watch, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(device_watch, "BUSY", 101.0)
    watch = DeviceWatch(settings, activity, (device, WorkerDevice(kind=device.kind, name="x", memory_bytes=1)))
    assert until_found(watch, lost=False) is None
