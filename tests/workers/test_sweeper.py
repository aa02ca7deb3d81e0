"""What no row can come to name any more goes; what is named, or may still be, stays."""

import io
from pathlib import Path

import pytest
from sqlalchemy import select

from app import jobs, resources
from app.db import writing
from app.models import File, Job, Model, UploadPart
from app.settings import Settings
from app.storage import LocalStorage
from tests.rows import submitted, team
from workers.sweeper import Sweeper

CHECKPOINT = [{"path": "state.json", "size": 1, "sha256": "0" * 64}]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


@pytest.fixture
def job(settings: Settings) -> Job:
    with writing() as session:
        return submitted(session)


def claimed(lease: float = 60) -> jobs.Claim:
    with writing() as session:
        claim = jobs.claim(session, "w", lease)
    assert claim is not None
    return claim


def put(storage: LocalStorage, *keys: str) -> None:
    for key in keys:
        storage.put_file(key, io.BytesIO(b"1"))


def keys(storage: LocalStorage) -> list[str]:
    return sorted(stored.key for stored in storage.objects(""))


def test_an_attempt_that_was_lost_leaves_only_what_is_gone_on_from(job: Job, settings: Settings, storage: LocalStorage) -> None:
    sweeper, root = Sweeper(settings, storage), f"jobs/{job.id}"
    first = claimed(lease=-1)
    put(storage, f"{root}/1/checkpoints/training-1/state.json", f"{root}/1/artifacts/a/model.onnx")
    with writing() as session:
        jobs.training_saved(session, first, f"{root}/1/checkpoints/training-1", CHECKPOINT, {"step": 1})
    sweeper.round()
    assert len(keys(storage)) == 2  # it still runs: the artifact's row may come
    with writing() as session:
        jobs.reap(session, max_failures=9, backoff_seconds=0)
    sweeper.round()
    assert keys(storage) == [f"{root}/1/checkpoints/training-1/state.json"]

    second = claimed()
    put(storage, f"{root}/2/artifacts/a/model.onnx", f"{root}/1/artifacts/late/model.onnx")  # the lost one was not dead
    sweeper.everything()
    assert keys(storage) == [f"{root}/1/checkpoints/training-1/state.json", f"{root}/2/artifacts/a/model.onnx"]

    with writing() as session:
        jobs.finish(session, second, {}, [])
    sweeper.round()
    assert keys(storage) == []
    put(storage, f"{root}/1/artifacts/later/model.onnx")
    sweeper.round()
    assert keys(storage) != []  # a round looks at each job once
    sweeper.everything()
    assert keys(storage) == []


def test_bytes_of_an_upload_wait_for_their_row_until_it_is_sealed(settings: Settings, storage: LocalStorage) -> None:
    with writing() as session:
        model = Model(team_id=team(session).id, name="m")
        session.add(model)
        session.flush()
        session.add(File(model_id=model.id, path="x", size=1, sha256="0" * 64, key=f"uploads/{model.id}/named"))
    put(storage, f"uploads/{model.id}/named", f"uploads/{model.id}/crashed", "uploads/mdl_nobody/x", "jobs/job_nobody/1/x")
    sweeper = Sweeper(settings, storage)
    sweeper.everything()
    assert keys(storage) == [f"uploads/{model.id}/crashed", f"uploads/{model.id}/named"]
    with writing() as session:
        session.get_one(Model, model.id).state = "ready"
    sweeper.everything()
    assert keys(storage) == [f"uploads/{model.id}/named"]


def test_parts_of_a_deleted_upload_go_with_it(settings: Settings, storage: LocalStorage) -> None:
    with writing() as session:
        model = Model(team_id=team(session).id, name="m")
        model.files = [File(path="x", size=9, sha256="0" * 64)]
        session.add(model)
        session.flush()
        session.add(UploadPart(file_id=model.files[0].id, start=0, size=1, key=f"uploads/{model.id}/part"))
    put(storage, f"uploads/{model.id}/part")
    sweeper = Sweeper(settings, storage)
    sweeper.round()
    assert keys(storage) == [f"uploads/{model.id}/part"]
    with writing() as session:
        resources.delete(session, Model, model.team_id, model.id)
    sweeper.round()
    assert keys(storage) == []
    with writing() as session:
        assert session.scalars(select(UploadPart)).all() == []
