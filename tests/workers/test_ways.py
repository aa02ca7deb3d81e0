"""A job of which one attempt has the model in memory and another goes from file to file: what the first shipped gives way."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from app.core.failures import describe_failure
from app.core.settings import Settings
from app.jobs import fencing, jobs, stage_results
from app.store.db import reading, writing
from app.store.models import Artifact, Dataset, File, Job, Model
from app.store.storage import Storage, open_storage
from compression.engine import shipping
from compression.engine.on_disk import backend as streaming
from compression.engine.pipeline import compress
from compression.schema.events import Event, StageFinished
from compression.schema.job_spec import Spec
from tests.compression.engine.on_disk.test_backend import ONLY_QUANTIZE, model_into
from tests.support.measuring import briefly
from tests.support.rows import submitted
from tests.support.tiny_bert import sentences, write_rows
from tests.workers.test_several import Telling, claimed, follow
from workers.attempt_ends import Crashed
from workers.job_inputs import write_inputs

MEMORY, FILES = "baseline-onnx-float32", "baseline-transformers-bfloat16"


class Working(Telling):
    """An engine that does the job in this process; `until` ends it after a stage."""

    def __init__(self, spec: Path, folder: Path, until: str | None) -> None:
        self.spec, self.folder, self.until = Spec.model_validate_json(spec.read_bytes()), folder, until

    def events(self, _tick: float) -> Iterator[Event]:
        for event in compress(self.spec, self.folder):
            yield event
            if isinstance(event, StageFinished) and event.row.stage == self.until:
                return


def sent(settings: Settings, place: Path) -> Job:
    model = model_into(place / "model")
    for name, count in (("train", 40), ("test", 12)):
        write_rows(place / f"{name}.jsonl", sentences(count, seed=len(name)))
    storage = open_storage(settings)

    def stored(*paths: Path) -> list[File]:
        files = []
        for path in paths:
            with path.open("rb") as source:
                storage.put_file(f"uploads/{path.name}", source)
            files.append(File(path=path.name, size=path.stat().st_size, sha256="0" * 64, key=f"uploads/{path.name}"))
        return files

    with writing() as session:
        job = submitted(session, recipe=ONLY_QUANTIZE, evaluate={"length": 16})
        dataset = session.get_one(Dataset, job.dataset_id)
        dataset.data = {"format": "jsonl", "splits": {"train": ["train.jsonl"], "test": ["test.jsonl"]}}
        dataset.files = stored(place / "train.jsonl", place / "test.jsonl")
        session.get_one(Model, job.model_id).files = stored(*(path for path in model.iterdir() if path.is_file()))
    return job


def attempted(place: Path, settings: Settings, storage: Storage, until: str | None = None) -> fencing.Claim:
    claim = claimed(settings, place)
    follow(claim, place, storage, settings, Working(write_inputs(claim, place, settings, storage), place, until))
    return claim


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("memory_first", [True, False], ids=["memory, then files", "files, then memory"])
def test_a_job_that_memory_failed_goes_on_the_other_way_and_succeeds(
    memory_first: bool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    job, storage = sent(settings, tmp_path / "sent"), open_storage(settings)
    with monkeypatch.context() as less, pytest.raises(Crashed):
        if not memory_first:  # a worker with less memory has it first
            less.setattr(streaming, "whole_bytes", lambda _parameters: 1 << 62)
        attempted(tmp_path / "1", settings, storage, until="baseline")
    with writing() as session:
        running = session.get_one(Job, job.id)
        assert stage_results.list_results(session, job.id)[1] == ({MEMORY} if memory_first else {MEMORY, FILES})
        claim = fencing.Claim(running, running.fence)
        split = 4 if memory_first else None  # as after a want of memory
        error = describe_failure("engine_crashed")
        jobs.retry_or_fail(session, claim, error, max_failures=3, backoff_seconds=0, split_batches=split)
    attempted(tmp_path / "2", settings, storage)
    with reading() as session:
        ended = session.get_one(Job, job.id)
        assert (ended.state, ended.attempt) == ("succeeded", 2)
        names = {one["name"] for one in ended.report["artifacts"]}
        assert names == {found.name for found in session.scalars(select(Artifact))}
        assert (FILES if memory_first else MEMORY) in names
        assert not {MEMORY, FILES} <= names
        left = set(session.scalars(select(File.artifact_id).where(File.artifact_id.is_not(None))))
        assert left == set(session.scalars(select(Artifact.id)))
