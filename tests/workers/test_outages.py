"""What a worker's disk or storage keeps from being done is no failure of the job: it goes back, and the worker rests."""

import errno
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from obstore.exceptions import GenericError
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from app.core.settings import Settings
from app.jobs.jobs import LONGEST_WAIT
from app.store.clock import now
from app.store.db import reading, writing
from app.store.models import Checkpoint, Dataset, Event, File, Job, Worker
from app.store.storage import LocalStorage, Source
from tests.support.rows import submitted
from workers import limits, outages, supervisor, tasks
from workers.limits import SPARE_BYTES
from workers.outages import Rest, find_storage_fault, is_outage

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
ROOM = SimpleNamespace(free=1 << 40, total=1 << 40)


class Failing(LocalStorage):
    """A storage that is away while `error` is set."""

    error: Exception | None = None

    def read(self, key: str, start: int, stop: int) -> Any:
        if self.error:
            raise self.error
        return super().read(key, start, stop)

    def put_file(self, key: str, source: Source) -> None:
        if self.error:
            raise self.error
        super().put_file(key, source)


@pytest.fixture
def failing(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """The storage of this process's worker, whose rest lasts as long as the test says."""
    storage = Failing(tmp_path / "store")
    monkeypatch.setattr(tasks, "get_storage", lambda: storage)
    monkeypatch.setattr(tasks, "rest", Rest())
    monkeypatch.setenv("LATHE_WORKER_ID", "w")
    with writing() as session:
        session.add(Worker(id="w", kind="jobs", host="h", pid=1, facts={}))
    return storage


def a_job(storage: LocalStorage, **values: Any) -> str:
    with writing() as session:
        job = submitted(session, **values)
        session.get_one(Dataset, job.dataset_id).data = {"format": "jsonl", "splits": {"train": ["t.jsonl"]}}
        session.add(File(model_id=job.model_id, path="x", size=1, sha256="0" * 64, key="uploads/x"))
        session.add(Checkpoint(job_id=job.id, stage="baseline", fence=1, prefix=f"jobs/{job.id}/1", files=[]))
        job.attempt = values.get("attempt", 0)
    if storage.root.is_dir():
        LocalStorage(storage.root).put_file("uploads/x", io.BytesIO(b"1"))
    return job.id


def told(job_id: str) -> tuple[Job, dict[str, Any]]:
    with reading() as session:
        last = select(Event.data).where(Event.job_id == job_id).order_by(Event.seq.desc()).limit(1)
        return session.get_one(Job, job_id), session.scalars(last).one()


def again() -> None:
    """Let the rest and the job's wait be over, and look for work."""
    tasks.rest.until = 0.0
    with writing() as session:
        session.execute(update(Job).values(not_before=None))
    tasks.run_jobs()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), GenericError("error sending request")])
def test_a_storage_that_goes_away_costs_no_job_a_failure(
    error: Exception, failing: Failing, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = a_job(failing)

    def away(*_: object) -> None:
        failing.error = error
        return

    monkeypatch.setattr(tasks, "find_storage_fault", away)  # it goes away right after it was tried
    waits = []
    for _ in range(4):
        again()
        job, data = told(job_id)
        assert (job.state, job.failures, data["code"]) == ("queued", 0, "worker_error")
        waits.append(data["wait_seconds"] / settings.backoff_seconds)
        assert data["remedy"] == f"Nothing: the job runs again by itself, in {data['wait_seconds']:g} seconds at the earliest."
    assert waits == [1, 2, 4, 8]
    assert not tasks.rest.is_over
    with reading() as session:
        assert session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)).all()


def test_nothing_is_claimed_while_storage_takes_no_write(failing: Failing) -> None:
    job_id = a_job(failing)
    failing.error = OSError(errno.EIO, "Input/output error")
    tasks.run_jobs()
    failing.error = None
    tasks.run_jobs()  # it rests
    assert told(job_id)[0].attempt == 0
    with reading() as session:
        row = session.get_one(Worker, "w")
        assert row.rest_reason == "storage takes no write: OSError"
        assert row.rests_until is not None
        assert session.scalar(select(Worker.rests_until > now()))


def test_a_worker_without_its_database_rests_all_the_same(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise OperationalError("", None, Exception("away"))

    monkeypatch.setattr(outages, "writing", away)
    rest = Rest()
    rest.begin(settings, "the database is away", "w")
    assert not rest.is_over


def test_only_a_job_that_is_given_back_often_is_charged(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "find_storage_fault", lambda _: setattr(failing, "error", OSError(errno.EIO, "x")))
    job_id = a_job(failing, attempt=supervisor.GIVEN_BACK - 1)
    again()
    job, data = told(job_id)
    assert (job.failures, data["wait_seconds"]) == (0, LONGEST_WAIT)
    again()
    assert told(job_id)[0].failures == 1


ON_ANOTHER_HOST = {"host": "other", "drain": False}


@pytest.mark.parametrize(
    ("other", "disk", "attempts", "failures"),
    [
        (ON_ANOTHER_HOST, "scratch", supervisor.GIVEN_BACK, 0),
        (ON_ANOTHER_HOST, "scratch", supervisor.GIVEN_BACK_TO_OTHERS, 1),
        ({**ON_ANOTHER_HOST, "drain": True}, "scratch", supervisor.GIVEN_BACK, 1),
        ({"host": "h"}, "scratch", supervisor.GIVEN_BACK, 1),  # it has the same disk
        (ON_ANOTHER_HOST, "storage", supervisor.GIVEN_BACK, 1),  # and so have all workers
    ],
)
def test_a_job_without_room_ends_unless_another_disk_may_hold_it(
    other: dict[str, Any], disk: str, attempts: int, failures: int, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SPARE_BYTES if disk == "scratch" else ROOM.free
    monkeypatch.setattr(limits, "disk_usage", lambda _: SimpleNamespace(free=free, total=ROOM.total))
    monkeypatch.setattr(failing, "free_bytes", lambda: 0 if disk == "storage" else ROOM.free)
    with writing() as session:
        session.add(Worker(id="other", kind="jobs", pid=2, facts={}, **other))
    job_id = a_job(failing, attempt=attempts)
    tasks.run_jobs()
    job, data = told(job_id)
    assert (job.state, job.failures, data["code"]) == ("queued", failures, "disk_full")


@pytest.mark.parametrize(("free", "rests"), [(SPARE_BYTES, False), (SPARE_BYTES - 1, True)])
def test_a_worker_rests_if_its_disk_is_full_and_not_if_one_job_is_too_large(
    free: int, rests: bool, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "disk_usage", lambda _: SimpleNamespace(free=free, total=ROOM.total))
    first, second = a_job(failing), a_job(failing)
    tasks.run_jobs()
    job, data = told(first)
    assert (job.state, job.failures, data["code"]) == ("queued", 0, "disk_full")
    assert told(second)[0].attempt == (0 if rests else 1)
    assert tasks.rest.is_over == (not rests)


def test_a_lost_file_is_no_outage_unless_storage_is(settings: Settings, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    lost = FileNotFoundError("x has no bytes in storage")
    assert find_storage_fault(storage) is None
    assert list(storage.objects("")) == []
    assert not is_outage(lost, storage)
    assert not is_outage(ValueError("a bug"), storage)
    storage.root.rename(tmp_path / "unmounted")
    assert is_outage(lost, storage)
