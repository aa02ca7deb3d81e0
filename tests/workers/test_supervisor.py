"""An attempt that is told to stop before its engine began: fetching what it needs may take as long as many a job."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from obstore.exceptions import GenericError
from sqlalchemy import select, update

from app.core.settings import Settings
from app.jobs import jobs
from app.store.clock import now
from app.store.db import writing
from app.store.models import Dataset, Event, File, Job, Worker
from app.store.storage import LocalStorage
from tests.support.rows import claimed, do, submitted
from workers.supervisor import run_attempt

PATIENCE = 30.0


class Slow(LocalStorage):
    """A storage from which a file comes for ever, and in whose reading something happens."""

    def __init__(self, root: Path, happens: Callable[[], object]) -> None:
        super().__init__(root)
        self.happens = happens

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        self.happens()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            yield b"x"
            time.sleep(0.05)
        raise TimeoutError(f"nobody stopped the copy of {key}")


def drain(_: Job) -> None:
    with writing() as session:
        session.execute(update(Worker).values(drain=True))


def cancel(job: Job) -> None:
    do(jobs.cancel, job.team_id, job.id)


def pass_the_deadline(job: Job) -> None:
    with writing() as session:
        session.execute(update(Job).where(Job.id == job.id).values(deadline_at=now(-1)))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("happens", "state", "code"),
    [(drain, "queued", None), (cancel, "cancelled", None), (pass_the_deadline, "failed", "deadline_exceeded")],
)
def test_it_stops_while_it_fetches(
    happens: Callable[[Job], None], state: str, code: str | None, settings: Settings, tmp_path: Path
) -> None:
    with writing() as session:
        job = submitted(session, deadline_seconds=3600)
        session.add(Worker(id="w", kind="jobs", host="h", pid=1, facts={}))
        session.get_one(Dataset, job.dataset_id).data = {"format": "jsonl", "splits": {"train": ["a"]}}
        session.add(File(model_id=job.model_id, path="x", size=1, sha256="0" * 64, key="uploads/x"))
    claim = claimed()
    hurried = settings.model_copy(update={"heartbeat_seconds": 0.1, "lease_seconds": 60.0})
    run_attempt(claim, hurried, Slow(tmp_path / "store", lambda: happens(job)))
    with writing() as session:
        found = session.get_one(Job, job.id)
    assert (found.state, found.failures, (found.error or {}).get("code")) == (state, 0, code)
    assert list(settings.scratch.glob("*/")) == []


class Telling(LocalStorage):
    """A bucket that tells with an error where it is."""

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        raise GenericError(f"error sending request for url (http://s3.internal:8333/lathe/{key}), AWSAccessKeyId: AKIA1")
        yield b""


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_a_storage_says_of_itself_reaches_no_sender(settings: Settings, tmp_path: Path) -> None:
    with writing() as session:
        job = submitted(session)
        session.get_one(Dataset, job.dataset_id).data = {"format": "jsonl", "splits": {"train": ["a"]}}
        session.add(File(model_id=job.model_id, path="x", size=1, sha256="0" * 64, key="uploads/x"))
    run_attempt(claimed(), settings.model_copy(update={"max_failures": 1}), Telling(tmp_path / "store"))
    with writing() as session:
        told = list(session.scalars(select(Event.data).where(Event.job_id == job.id)))
        told.append(session.get_one(Job, job.id).error or {})
    causes = {data["cause"] for data in told if data.get("code") == "worker_error"}
    assert causes == {"The worker could not do its part: fetch, store or start. GenericError"}
    assert "internal" not in str(told)
    assert "AKIA1" not in str(told)
