"""The keeper: one leads, bytes of what was deleted go, bytes that are needed stay."""

import io
from pathlib import Path

from sqlalchemy import select

from app import jobs
from app.db import writing
from app.models import Checkpoint, File, Job, Model
from app.settings import Settings
from app.storage import LocalStorage
from tests.rows import ready, submitted, team
from workers.keeper import Keeper, lead


def test_one_leads_until_its_term_is_over(settings: Settings) -> None:
    with writing() as session:
        assert lead(session, "a", 30)
    with writing() as session:
        assert not lead(session, "b", 30)
        assert lead(session, "a", -1)  # its last term, already over
    with writing() as session:
        assert lead(session, "b", 30)
        assert not lead(session, "a", 30)


def test_deleted_bytes_go_and_needed_bytes_stay(settings: Settings, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
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
    keeper = Keeper(settings, storage)
    keeper.round()
    assert [stored.key for stored in storage.objects("uploads/")] == [f"uploads/{kept.id}/x"]
    assert [stored.key for stored in storage.objects("jobs/")] == [f"{prefix}/model"]  # the job still runs
    with writing() as session:
        jobs.finish(session, claim, {}, [])
    keeper.round()
    assert list(storage.objects("jobs/")) == []
    with writing() as session:
        assert session.get_one(Model, gone.id).purged_at is not None
        assert session.scalars(select(Checkpoint)).all() == []


def test_a_round_takes_jobs_from_the_lost(settings: Settings, tmp_path: Path) -> None:
    with writing() as session:
        job = submitted(session)
        assert jobs.claim(session, "w", -1)
    Keeper(settings, LocalStorage(tmp_path / "store")).round()
    with writing() as session:
        found = session.get_one(Job, job.id)
        assert (found.state, found.failures) == ("queued", 1)
