"""An attempt's ends: told to stop before its engine began, and what follows the engine while the job must stay ours."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from obstore.exceptions import GenericError
from sqlalchemy import select, update

from app.core.settings import Settings
from app.jobs import fencing, jobs
from app.store.clock import now
from app.store.db import writing
from app.store.models import Dataset, Event, File, Job, Worker
from app.store.storage import LocalStorage
from compression.schema import events
from compression.schema.errors import DeviceLost
from tests.support.rows import claimed, do, submitted
from workers import folders, supervisor
from workers.lease import Lease
from workers.removal import remove_tree
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


class Says:
    """An engine that says one thing, and is gone."""

    def __init__(self, event: events.Event) -> None:
        self.event = event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def events(self, _tick: float) -> Iterator[events.Event | None]:
        yield None
        yield self.event

    def pause(self) -> None:
        pass

    stop = kill = pause


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> list[Lease]:
    """The leases that attempts take."""
    taken: list[Lease] = []

    def take(claim: fencing.Claim, settings: Settings, on_lost: Callable[[], None]) -> Lease:
        taken.append(Lease(claim, settings, on_lost))
        return taken[-1]

    monkeypatch.setattr(supervisor, "Lease", take)
    return taken


def is_renewed(lease: Lease) -> bool:
    before, end = lease.renewed, time.monotonic() + 30
    while lease.renewed == before and time.monotonic() < end:
        time.sleep(0.01)
    return lease.renewed != before


LOST = DeviceLost("no card").as_dict()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("says", "drains", "state", "renewals"),
    [
        (events.Failed(**LOST), False, "queued", ["removal", "probe"]),
        (events.Failed(**{**LOST, "code": "unsupported_architecture"}), False, "failed", ["removal"]),
        (events.Paused(), True, "queued", ["removal"]),
    ],
    ids=["its device is lost", "it failed", "it paused"],
)
def test_the_lease_is_renewed_until_the_outcome_is_written(
    says: events.Event,
    drains: bool,
    state: str,
    renewals: list[str],
    settings: Settings,
    storage: LocalStorage,
    leases: list[Lease],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Probing several cards takes longer than a lease, and so does removing a folder of many files."""
    with writing() as session:
        job = submitted(session)
        session.add(Worker(id="w", kind="jobs", host="h", pid=1, facts={}, drain=drains))
        session.get_one(Dataset, job.dataset_id).data = {"format": "jsonl", "splits": {"train": ["a"]}}
    seen: list[str] = []

    def remove(place: Path) -> None:
        if place.exists():
            assert is_renewed(leases[0])
            seen.append("removal")
        remove_tree(place)

    def probe(_: Settings) -> str:
        assert is_renewed(leases[0])
        seen.append("probe")
        return "Xid 79"

    def start(*_: object, **__: object) -> Says:
        assert not drains or leases[0].drain.wait(30)
        return Says(says)

    monkeypatch.setattr(folders, "remove_tree", remove)
    monkeypatch.setattr(supervisor, "find_fault", probe)
    monkeypatch.setattr(supervisor, "Engine", start)
    run_attempt(claimed(), settings.model_copy(update={"heartbeat_seconds": 0.1, "lease_seconds": 60.0}), storage)
    with writing() as session:
        found = session.get_one(Job, job.id)
    assert (found.state, found.failures, seen) == (state, 0, renewals)


def test_a_lost_lease_is_renewed_no_more(settings: Settings) -> None:
    do(submitted)
    lease = Lease(claimed(), settings.model_copy(update={"heartbeat_seconds": 0.05}), on_lost=lambda: None)
    lease.lost.set()
    renewed = lease.renewed
    lease.start()
    lease.join(60)
    assert (lease.is_alive(), lease.renewed) == (False, renewed)
    lease.release()
