"""Transitions of models and datasets, on both databases."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from app.api.schemas import ManifestEntry
from app.core.errors import InUse, InvalidRequest, NotFound
from app.jobs import jobs
from app.store import resources
from app.store.models import Dataset, File, Model, Team
from tests.app.conftest import NewJob, SessionMaker
from tests.conftest import Database

NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def stored(transaction: SessionMaker, *paths: str) -> Model:
    with transaction() as session:
        team = session.scalars(select(Team)).one()
        manifest = [ManifestEntry(path=path, size=0, sha256=NOTHING) for path in paths]
        model = resources.create(session, Model(team_id=team.id, name="m"), manifest)
        assert [file.path for file in model.files] == sorted(paths)  # which loads them
        return model


def test_a_file_cannot_be_a_folder_too(transaction: SessionMaker) -> None:
    with pytest.raises(InvalidRequest, match=r"'a/b\.json' as a file and as a folder"):
        stored(transaction, "a/b.json/c.json", "a/b.json", "d.json")


def test_a_dataset_without_train_is_refused_before_it_is_uploaded(transaction: SessionMaker) -> None:
    with transaction() as session, pytest.raises(InvalidRequest, match="no train"):
        data = {"format": "jsonl", "columns": {}, "splits": {"test": ["a.csv"]}}
        row = Dataset(team_id="", name="d", task="text-classification", data=data)
        resources.create(session, row, [ManifestEntry(path="a.csv", size=0, sha256=NOTHING)])


def test_bytes_that_come_after_the_deletion_are_not_kept(transaction: SessionMaker) -> None:
    model = stored(transaction, "a.json", "b.json")
    early, late = (file.id for file in model.files)
    with transaction() as session:
        assert resources.record_file(session, early, "first")
        assert not resources.record_file(session, early, "second")
        resources.delete(session, Model, model.team_id, model.id)
    with transaction() as session:
        assert not resources.record_file(session, late, "third")
        assert session.get_one(File, late).key is None


def test_a_late_completion_does_not_undo_a_check(transaction: SessionMaker, database: Database) -> None:
    if database.kind == "sqlite":
        pytest.skip("there, one who may write waits before it reads")
    model = stored(transaction, "a.json")
    with transaction() as session:
        assert resources.record_file(session, model.files[0].id, "k")
    with transaction() as late:
        seen = resources.get(late, Model, model.team_id, model.id)
        assert seen.state == resources.UPLOADING
        with transaction() as session:
            resources.complete(session, Model, model.team_id, model.id)
            row = resources.claim_check(session, 30)
            assert resources.finish_check(session, row, facts={}, reasons=[], attempt=row.check_attempts)
        assert resources.complete(late, Model, model.team_id, model.id).state == resources.READY


def test_a_job_is_not_tried_again_without_its_model(transaction: SessionMaker, new_job: NewJob) -> None:
    job = new_job()
    with transaction() as session:
        jobs.cancel(session, job.team_id, job.id)
        resources.delete(session, Model, job.team_id, job.model_id)
    with transaction() as session, pytest.raises(NotFound, match=job.model_id):
        jobs.retry(session, job.team_id, job.id)


def test_a_model_is_not_deleted_under_a_job_being_submitted(transaction: SessionMaker, new_job: NewJob) -> None:
    old = new_job()
    with transaction() as session:
        jobs.cancel(session, old.team_id, old.id)

    def delete() -> None:
        with transaction() as session:
            resources.delete(session, Model, old.team_id, old.model_id)

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            jobs.retry(session, old.team_id, old.id)
            deleting = pool.submit(delete)
            time.sleep(0.3)  # in which a deletion that waits for nobody would be over
        with pytest.raises(InUse):
            deleting.result(30)
