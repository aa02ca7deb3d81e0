"""The keeper: one leads, bytes of what was deleted go, bytes that are needed stay."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from obstore.exceptions import GenericError
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.core.settings import Settings
from app.jobs import jobs
from app.store.clock import now
from app.store.db import writing
from app.store.models import AuditEntry, Checkpoint, File, Job, Model
from app.store.storage import LocalStorage, Stored
from tests.conftest import wait_for
from tests.support.rows import do, ready, submitted, team
from workers import keeper as keepers
from workers.keeper import Keeper, take_leadership


def test_one_leads_until_its_term_is_over(settings: Settings) -> None:
    with writing() as session:
        assert take_leadership(session, "a", 30)
    with writing() as session:
        assert not take_leadership(session, "b", 30)
        assert take_leadership(session, "a", -1)  # its last term, already over
    with writing() as session:
        assert take_leadership(session, "b", 30)
        assert not take_leadership(session, "a", 30)


def test_rows_of_the_audit_log_go_when_their_time_is_over_and_not_before(settings: Settings, tmp_path: Path) -> None:
    with writing() as session:
        for name, keep in (("over", -1.0), ("kept", 3600.0)):
            told = {"team_id": "t", "key_id": "k", "action": "jobs.create", "outcome": "ok"}
            session.add(AuditEntry(id=name, keep_until=now(keep), **told))
    Keeper(settings, LocalStorage(tmp_path / "store")).round()
    with writing() as session:
        assert [entry.id for entry in session.scalars(select(AuditEntry))] == ["kept"]


def test_deleted_bytes_go_and_needed_bytes_stay(settings: Settings, storage: LocalStorage) -> None:
    with writing() as session:
        job = submitted(session)
        gone, _ = ready(session, team(session))
        kept = session.get_one(Model, job.model_id)
        for model in (gone, kept):
            key = f"uploads/{model.id}/x"
            storage.put_file(key, io.BytesIO(b"1"))
            session.add(File(model_id=model.id, path="x", size=1, sha256="0" * 64, key=key))
        claim = jobs.claim(session, "w", 60)
        assert claim
        prefix = f"jobs/{job.id}/1/checkpoints/baseline"
        storage.put_file(f"{prefix}/model", io.BytesIO(b"2"))
        session.add(Checkpoint(job_id=job.id, stage="baseline", fence=1, prefix=prefix, files=[]))
        session.get_one(Model, gone.id).deleted_at = gone.created_at
    sweeper = Keeper(settings, storage).sweeper
    sweeper.round()
    assert [stored.key for stored in storage.objects("uploads/")] == [f"uploads/{kept.id}/x"]
    assert [stored.key for stored in storage.objects("jobs/")] == [f"{prefix}/model"]  # the job still runs
    do(jobs.finish, claim, {}, [])
    sweeper.round()
    assert list(storage.objects("jobs/")) == []
    with writing() as session:
        assert session.get_one(Model, gone.id).purged_at is not None
        assert session.scalars(select(Checkpoint)).all() == []


def test_a_round_takes_jobs_from_the_lost(settings: Settings, tmp_path: Path) -> None:
    job = lost_job()
    Keeper(settings, LocalStorage(tmp_path / "store")).round()
    with writing() as session:
        found = session.get_one(Job, job.id)
        assert (found.state, found.failures) == ("queued", 1)


def test_of_two_that_share_a_name_and_a_number_one_leads(settings: Settings, tmp_path: Path) -> None:
    first, second = (Keeper(settings, LocalStorage(tmp_path / "store")) for _ in range(2))
    first.round()
    job = lost_job()
    second.round()
    assert state_of(job) == "running"
    first.round()
    assert state_of(job) == "queued"


class Away(LocalStorage):
    """A bucket that cannot be reached, as obstore says it."""

    def objects(self, prefix: str) -> Iterator[Stored]:
        raise GenericError(f"error sending request for {prefix}")


def test_jobs_are_taken_from_the_lost_while_storage_is_away(settings: Settings, tmp_path: Path) -> None:
    hurried = settings.model_copy(update={"lease_seconds": 0.2, "keeper_seconds": 0.05})
    with writing() as session:
        job = submitted(session)  # and there is something to sweep from the first round on
        assert jobs.claim(session, "w", -1)
        session.get_one(Model, job.model_id).deleted_at = job.created_at
    with running(Keeper(hurried, Away(tmp_path / "store"))):
        wait_for(lambda: state_of(job) == "queued")


class Hanging(LocalStorage):
    """A bucket that takes ever so long to delete."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.deletes, self.ended = threading.Event(), threading.Event()

    def delete(self, key: str) -> None:
        self.deletes.set()
        assert self.ended.wait(60)
        super().delete(key)


def test_a_deletion_that_takes_long_keeps_no_job_with_the_lost(settings: Settings, tmp_path: Path) -> None:
    hurried = settings.model_copy(update={"lease_seconds": 0.2, "keeper_seconds": 0.05})
    storage = Hanging(tmp_path / "store")
    with writing() as session:
        gone, _ = ready(session, team(session))
        storage.put_file(f"uploads/{gone.id}/x", io.BytesIO(b"1"))
        session.get_one(Model, gone.id).deleted_at = gone.created_at
    with running(Keeper(hurried, storage)):
        try:
            assert storage.deletes.wait(60)
            job = lost_job()
            wait_for(lambda: state_of(job) == "queued", seconds=45)
            assert list(storage.objects("uploads/")) != []
        finally:
            storage.ended.set()
        wait_for(lambda: list(storage.objects("uploads/")) == [])


def test_it_waits_a_lease_after_a_lost_database(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = settings.model_copy(update={"lease_seconds": 1.0, "keeper_seconds": 0.05})
    away, failed = threading.Event(), [time.monotonic()]  # the start counts: nobody knows what was before

    def asked(session: Session, holder: str, seconds: float) -> bool:
        if away.is_set():
            failed.append(time.monotonic())
            raise OperationalError("SELECT", {}, ConnectionError("away"))
        return take_leadership(session, holder, seconds)

    monkeypatch.setattr(keepers, "take_leadership", asked)
    with running(Keeper(patient, LocalStorage(tmp_path / "store"))):
        for _ in range(2):
            job = lost_job()
            wait_for(lambda job=job: state_of(job) == "queued", every=0.01)
            assert time.monotonic() - failed[-1] >= patient.lease_seconds
            away.set()
            wait_for(lambda: len(failed) > 2)
            away.clear()


@pytest.mark.parametrize("hours", [1, -1])
def test_after_a_jump_of_the_clock_the_living_have_a_lease_to_say_so(
    hours: int, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(settings.model_copy(update={"lease_seconds": 60.0}), LocalStorage(tmp_path / "store"))
    keeper.round()
    with writing() as session:
        alive, dead = submitted(session), submitted(session)
        claims = [jobs.claim(session, worker, -1) for worker in ("alive", "dead")]  # as after a nap of both
    monkeypatch.setattr(keepers, "now", lambda seconds=0.0: now(hours * 3600 + seconds))
    keeper.round()
    assert [state_of(job) for job in (alive, dead)] == ["running", "running"]
    do(jobs.heartbeat, claims[0], 60)
    keeper.round()  # no jump since the last one, and its grace goes on
    assert state_of(dead) == "running"
    keeper.grace_until -= 60.0
    keeper.round()
    assert [state_of(job) for job in (alive, dead)] == ["running", "queued"]


def lost_job() -> Job:
    with writing() as session:
        job = submitted(session)
        assert jobs.claim(session, "w", -1)
    return job


def state_of(job: Job) -> str:
    with writing() as session:
        return session.get_one(Job, job.id).state


@contextmanager
def running(keeper: Keeper) -> Iterator[None]:
    thread = threading.Thread(target=keeper.run)
    thread.start()
    try:
        yield
    finally:
        keeper.stopped.set()
        thread.join(60)
