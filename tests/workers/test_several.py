"""Several datasets from the worker's side: what is laid out, what is kept of an unfinished stage, and what is refused."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from app.core.settings import Settings
from app.jobs import fencing, jobs, stage_results
from app.store.db import reading, writing
from app.store.models import Dataset, Job, JobDataset
from app.store.storage import Storage, open_storage
from compression.schema.events import ArtifactReady, Event, PartFinished, StageFinished
from compression.schema.job_spec import Spec
from compression.schema.report.averages import mean_row
from compression.schema.report.measurements import NotMeasured, Row
from compression.schema.report.report import Artifact, File
from tests.client.figures import row
from tests.support import rows
from tests.support.rows import do, submitted, team
from workers.attempt_ends import Crashed
from workers.engine import Engine
from workers.event_relay import EventRelay
from workers.folders import Untrustworthy
from workers.job_inputs import write_inputs
from workers.lease import Lease
from workers.usage import Usage

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # the transitions are tested on both elsewhere
LAYOUT = {"format": "jsonl", "splits": {"train": ["a.jsonl"]}}


class Telling:
    def __init__(self, *events: Event) -> None:
        self.told = events

    def events(self, _tick: float) -> Iterator[Event]:
        yield from self.told

    def status(self) -> int:
        return 1

    def last_output(self, _limit: int) -> str:
        return "died"

    def usage(self) -> Usage:
        return Usage()


@pytest.fixture
def job(settings: Settings) -> Job:
    with writing() as session:
        job = submitted(session, task="several", evaluate={"metric": ["accuracy_f1", "auto"]})
        owner = team(session)
        session.get_one(Dataset, job.dataset_id).data = LAYOUT
        other = Dataset(team_id=owner.id, name="joy", state="ready", task="text-regression", data=LAYOUT)
        session.add(other)
        session.flush()
        for place, (name, dataset) in enumerate((("mood", job.dataset_id), ("joy", other.id))):
            session.add(JobDataset(job_id=job.id, position=place, dataset_id=dataset, name=name))
    return job


def claimed(settings: Settings, folder: Path) -> fencing.Claim:
    folder.mkdir()
    return rows.claimed()


def follow(claim: fencing.Claim, folder: Path, storage: Storage, settings: Settings, engine: Telling) -> None:
    EventRelay(claim, folder, storage, Lease(claim, settings, on_lost=lambda: None), cast("Engine", engine), settings).run()


def listen(claim: fencing.Claim, folder: Path, settings: Settings, *events: Event) -> None:
    with pytest.raises(Crashed):
        follow(claim, folder, open_storage(settings), settings, Telling(*events))


def file(folder: Path, path: str, data: bytes) -> File:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_bytes(data)
    return File(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def part(number: int, name: str, *files: File) -> PartFinished:
    return PartFinished(stage="baseline", part=name, number=number, checkpoint=files)


def mean(*names: str) -> Row:
    each = {name: row("baseline", 20_000_000, 80_000_000, 16.0, 0.8) for name in names}
    return mean_row(each, None) if each else row("baseline", 20_000_000, 80_000_000, 16.0, 0.8)


def test_an_attempt_that_died_between_two_parts_is_gone_on_from(job: Job, settings: Settings, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    claim = claimed(settings, first)
    kept = file(first / "out/checkpoints/baseline", "mood/state.json", b"of mood")
    model = file(first / "out/artifacts/baseline-onnx-float32-mood", "model.onnx", b"weights")
    form = {"kind": "onnx", "stage": "baseline", "precision": "float32", "opens_with": "onnxruntime", "part": "mood"}
    nothing = NotMeasured(not_measured="a test")
    ready = Artifact(name="baseline-onnx-float32-mood", files=(model,), score=nothing, **form)
    listen(claim, first, settings, ArtifactReady(artifact=ready), part(0, "mood", kept))
    with reading() as session:
        assert [found.stage for found in stage_results.list_checkpoints(session, job.id)] == ["baseline.0"]
        assert stage_results.list_results(session, job.id) == ([], {"baseline-onnx-float32-mood"})
    do(jobs.release, claim)

    claim = claimed(settings, second)
    spec = Spec.model_validate_json(write_inputs(claim, second, settings, open_storage(settings)).read_bytes())
    assert (spec.task, spec.data, spec.resume) == ("several", None, "resume")
    assert spec.evaluate.metric == ("accuracy_f1", "auto")
    tasks = {"mood": "text-classification", "joy": "text-regression"}
    parts = [(name, task, {"train": (f"data/{name}/a.jsonl",)}) for name, task in tasks.items()]
    assert [(each.name, each.task, each.data.splits) for each in spec.parts] == parts
    assert (second / "resume/baseline/mood/state.json").read_bytes() == b"of mood"
    place = second / "out/checkpoints/baseline"
    mood, joy, whole = (file(place, path, b"x") for path in ("mood/state.json", "joy/state.json", "state.json"))
    done = StageFinished(row=mean("mood", "joy"), checkpoint=(mood, joy, whole))
    listen(claim, second, settings, part(0, "mood", mood), part(1, "joy", joy), done)
    with reading() as session:
        (stage,) = stage_results.list_checkpoints(session, job.id)
        assert stage.stage == "baseline"
        assert [each["path"] for each in stage.files] == ["mood/state.json", "joy/state.json", "state.json"]
        (stored,) = stage_results.list_results(session, job.id)[0]
        assert stored["parts"].keys() == {"mood", "joy"}
    storage = open_storage(settings)
    for each in stage.files:
        assert b"".join(storage.read(f"{stage.prefix}/{each['path']}", 0, each["size"])) == b"x"


@pytest.mark.parametrize(
    "events",
    [
        [part(0, "other")],
        [part(1, "mood")],
        [part(2, "mood")],
        [part(0, "mood"), part(0, "mood")],
        [StageFinished(row=mean(), checkpoint=())],
        [StageFinished(row=mean("mood"), checkpoint=())],
        [StageFinished(row=mean("mood", "joy"), checkpoint=()), part(0, "mood")],
    ],
)
def test_an_engine_cannot_speak_of_other_parts(job: Job, settings: Settings, tmp_path: Path, events: list[Any]) -> None:
    claim = claimed(settings, tmp_path / "1")
    with pytest.raises(Untrustworthy):
        follow(claim, tmp_path / "1", open_storage(settings), settings, Telling(*events))
    with reading() as session:
        assert len(stage_results.list_checkpoints(session, job.id)) <= 1
