"""What no row can come to name any more goes; what is named, or may still be, stays."""

import io
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.core.errors import NotFound
from app.core.settings import Settings
from app.jobs import jobs, stage_results
from app.store import resources
from app.store.clock import now
from app.store.db import reading, writing
from app.store.models import Dataset, File, Job, Model, UploadPart
from app.store.storage import LocalStorage
from tests.support.rows import TASK, claimed, do, submitted, team
from workers import sweeper as sweepers
from workers.sweeper import Sweeper

CHECKPOINT = [{"path": "state.json", "size": 1, "sha256": "0" * 64}]


@pytest.fixture
def job(settings: Settings) -> Job:
    return do(submitted)


def put(storage: LocalStorage, *keys: str) -> None:
    for key in keys:
        storage.put_file(key, io.BytesIO(b"1"))


def keys(storage: LocalStorage) -> list[str]:
    return sorted(stored.key for stored in storage.objects(""))


def test_an_attempt_that_was_lost_leaves_only_what_is_gone_on_from(job: Job, settings: Settings, storage: LocalStorage) -> None:
    sweeper, root = Sweeper(settings, storage), f"jobs/{job.id}"
    first = claimed(lease=-1)
    put(storage, f"{root}/1/checkpoints/training-1/state.json", f"{root}/1/artifacts/a/model.onnx")
    do(stage_results.record_training, first, f"{root}/1/checkpoints/training-1", CHECKPOINT, {"step": 1})
    sweeper.round()
    assert len(keys(storage)) == 2  # it still runs: the artifact's row may come
    do(jobs.requeue_expired, max_failures=9, backoff_seconds=0)
    sweeper.round()
    assert keys(storage) == [f"{root}/1/checkpoints/training-1/state.json"]

    second = claimed()
    put(storage, f"{root}/2/artifacts/a/model.onnx", f"{root}/1/artifacts/late/model.onnx")  # the lost one was not dead
    sweeper.sweep_all()
    assert keys(storage) == [f"{root}/1/checkpoints/training-1/state.json", f"{root}/2/artifacts/a/model.onnx"]

    do(jobs.finish, second, {}, [])
    sweeper.round()
    assert keys(storage) == []
    put(storage, f"{root}/1/artifacts/later/model.onnx")
    sweeper.round()
    assert keys(storage) != []  # a round looks at each job once
    sweeper.sweep_all()
    assert keys(storage) == []


def test_files_that_others_left_in_a_folder_stop_no_sweep(job: Job, settings: Settings, storage: LocalStorage) -> None:
    strays = ["jobs/.DS_Store", "uploads/.nfs0001"]
    put(storage, *strays, "jobs/job_nobody/1/x", f"jobs/{job.id}/.DS_Store", "uploads/mdl_nobody/x")
    Sweeper(settings, storage).sweep_all()
    assert keys(storage) == strays


def test_bytes_of_an_upload_wait_for_their_row_until_it_is_sealed(settings: Settings, storage: LocalStorage) -> None:
    with writing() as session:
        model = Model(team_id=team(session).id, name="m")
        session.add(model)
        session.flush()
        session.add(File(model_id=model.id, path="x", size=1, sha256="0" * 64, key=f"uploads/{model.id}/named"))
    put(storage, f"uploads/{model.id}/named", f"uploads/{model.id}/crashed", "uploads/mdl_nobody/x", "jobs/job_nobody/1/x")
    sweeper = Sweeper(settings, storage)
    sweeper.sweep_all()
    assert keys(storage) == [f"uploads/{model.id}/crashed", f"uploads/{model.id}/named"]
    with writing() as session:
        session.get_one(Model, model.id).state = "ready"
    sweeper.sweep_all()
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
    do(resources.delete, Model, model.team_id, model.id)
    sweeper.round()
    assert keys(storage) == []
    with writing() as session:
        assert session.scalars(select(UploadPart)).all() == []
        assert session.scalars(select(File)).all() == []


def test_an_upload_that_was_given_up_goes_and_one_that_goes_on_stays(settings: Settings, storage: LocalStorage) -> None:
    long_ago = now(-2 * settings.upload_seconds)
    with writing() as session:
        owner = team(session)
        rows = {name: Model(team_id=owner.id, name=name, created_at=long_ago) for name in ("left", "slow", "sealed", "new")}
        for row in rows.values():
            row.files = [File(path="x", size=9, sha256="0" * 64), File(path="y", size=1, sha256="0" * 64)]
        rows["sealed"].state, rows["new"].created_at = "validating", now(-settings.upload_seconds / 2)
        data = Dataset(team_id=owner.id, name="d", task=TASK, data={}, created_at=long_ago)
        session.add_all([*rows.values(), data])
        session.flush()
        # Of the slow one a part came long after it was begun; of the other, long ago.
        for name in ("left", "slow"):
            key = f"uploads/{rows[name].id}/part"
            assert resources.record_part(session, UploadPart(file_id=rows[name].files[0].id, start=0, size=1, key=key))
            put(storage, key)
        session.execute(update(Model).where(Model.id == rows["left"].id).values(arrived_at=long_ago))
    sweeper = Sweeper(settings, storage)
    sweeper.sweep_all()
    sweeper.round()
    with reading() as session:
        gone = set(session.scalars(select(Model.name).where(Model.deleted_at.is_not(None))))
        assert (gone, session.get_one(Dataset, data.id).deleted_at is None) == ({"left"}, False)
        with pytest.raises(NotFound):
            resources.get(session, Model, owner.id, rows["left"].id)
    assert keys(storage) == [f"uploads/{rows['slow'].id}/part"]
    with writing() as session:
        session.execute(update(Model).values(arrived_at=long_ago))
        assert resources.record_file(session, rows["slow"].files[1].id, "k")
    sweeper.sweep_all()
    with reading() as session:
        assert session.get_one(Model, rows["slow"].id).deleted_at is None


class Locked(LocalStorage):
    """A bucket in which one object is locked."""

    locked = ""

    def delete(self, key: str) -> None:
        if key == self.locked:
            raise PermissionError(key)
        super().delete(key)


def test_what_cannot_be_deleted_stops_nothing_else(
    job: Job, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweepers, "AT_ONCE", 1)
    storage = Locked(tmp_path / "store")
    with writing() as session:
        owner = team(session)
        models = [Model(team_id=owner.id, name=name, state="ready", deleted_at=now()) for name in ("locked", "free")]
        session.add_all(models)
    locked, free = sorted(models, key=lambda model: model.id)
    storage.locked = f"uploads/{locked.id}/x"
    attempt = claimed()
    do(stage_results.record_training, attempt, f"jobs/{job.id}/1/checkpoints/training-1", CHECKPOINT, {"step": 1})
    do(jobs.finish, attempt, {}, [])
    left = f"jobs/{job.id}/1/checkpoints/training-1/state.json"
    put(storage, storage.locked, f"uploads/{free.id}/x", left, "jobs/job_nobody/1/x", "uploads/mdl_nobody/x")
    sweeper = Sweeper(settings, storage)
    for _ in range(2):  # of each kind it frees one at a time, and the locked one is the first
        sweeper.round()
    assert keys(storage) == ["jobs/job_nobody/1/x", storage.locked, "uploads/mdl_nobody/x"]
    sweeper.sweep_all()
    assert keys(storage) == [storage.locked]
    with reading() as session:
        assert session.scalars(select(Model.id).where(Model.purged_at.is_not(None))).all() == [free.id]
    # The lock is taken away: what failed a moment ago is left alone for a while, and then freed.
    storage.locked = ""
    sweeper.round()
    assert keys(storage) != []
    for prefix in sweeper.failed:
        sweeper.failed[prefix] -= sweepers.AGAIN_SECONDS
    sweeper.round()
    sweeper.round()
    assert keys(storage) == []
