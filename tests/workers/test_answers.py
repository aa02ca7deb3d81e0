"""A question gets an answer or a reason, whatever the child does that is asked; and what it says can be stored."""

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from app.core.settings import Settings
from app.jobs import jobs, predictions
from app.store.db import writing
from app.store.models import Artifact, Dataset, File, Metric, Prediction
from app.store.storage import LocalStorage
from compression.schema.prediction_request import Question
from compression.schema.recipe.recipe import Recipe, Targets
from tests.support.rows import submitted
from workers import engine
from workers.predictions import predict_next

SAID = {"milliseconds": 1.5, "runs": 3, "runtime": "r", "bytes": 9, "label": "good", "scores": {"good": 1.0}}


def report() -> dict[str, Any]:
    ratios = dict.fromkeys(("speed_up", "latency_reduction", "retention", "retention_above_chance"))
    own = {"task": "text-classification", "labels": ["bad", "good"], "headline": "int8", "pruning": None}
    own |= {"rows": [], "artifacts": [], "verdicts": {}, "splits": {}, "environment": {}}
    own |= {"targets": Targets().model_dump(mode="json"), "recipe": Recipe().model_dump(mode="json")}
    return {**own, "ratios": {"parameter_reduction": 0.5, "size_reduction": 0.7, **ratios}}


def asked(storage: LocalStorage, question: Question, path: str = "train.jsonl", named: str = "train.jsonl") -> str:
    with writing() as session:
        job = submitted(session, evaluate={"metric": ["accuracy_f1"]})
        dataset = session.get_one(Dataset, job.dataset_id)
        dataset.data = {"format": "jsonl" if path == named else "folder", "splits": {"train": [named]}}
        dataset.facts = {"labels": [], "rows": {"train": 1}, "label_counts": {}, "mean_words": 1.0, "longest_words": 1}
        claim = jobs.claim(session, "w", 60)
        figures = {"position": 0, "fence": 1, "parameters": 1, "size_bytes": 1, "row": {"artifact": "fp32"}}
        session.add(Metric(job_id=job.id, stage="baseline", **figures))
        for name in ("fp32", "int8"):
            key = f"jobs/{job.id}/1/{name}"
            storage.put_file(key, io.BytesIO(name.encode()))
            file = File(path="model.onnx", size=4, sha256="0" * 64, key=key)
            session.add(Artifact(job_id=job.id, fence=1, name=name, facts={}, files=[file]))
        storage.put_file("uploads/rows", io.BytesIO(b"row"))
        for name in (path, "other/train.jsonl"):
            session.add(File(dataset_id=dataset.id, path=name, size=3, sha256="0" * 64, key="uploads/rows"))
        jobs.finish(session, claim, report(), [])
    with writing() as session:
        return predictions.create(session, job.team_id, job.id, "", question).id


Answer = Callable[..., Prediction]


@pytest.fixture
def answer(settings: Settings, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Answers a question with a child that does as it likes, within some seconds."""

    def answered(
        child: str,
        *,
        seconds: float = settings.answer_seconds,
        path: str = "train.jsonl",
        named: str = "train.jsonl",
        **more: Any,
    ) -> Prediction:
        question = asked(storage, Question(**(more or {"text": "good"})), path, named)
        monkeypatch.setattr(engine, "engine_command", lambda _verb, spec, *_: [sys.executable, "-c", child, str(spec)])
        patience = settings.model_copy(update={"answer_seconds": seconds})
        assert predict_next(patience, storage)
        assert not predict_next(patience, storage)
        assert list(settings.scratch.glob("try_*")) == []
        with writing() as session:
            return session.get_one(Prediction, question)

    return answered


def test_the_child_gets_both_artifacts_and_the_rows_that_are_asked(answer: Answer) -> None:
    child = f"""
import json, sys
from pathlib import Path
spec = json.loads(Path(sys.argv[1]).read_text())
read = [Path(place).read_text() for place in ("original/model.onnx", "compressed/model.onnx", "data/train.jsonl")]
assert spec["data"]["splits"]["train"] == ["data/train.jsonl"], spec
assert spec["evaluate"]["metric"] == "accuracy_f1", spec
asked = {{"text": " ".join([*read, *spec["labels"], str(spec["question"]["row"])])}}
print(json.dumps({{"asked": asked, "expected": "good", "original": {SAID!r}, "compressed": {SAID!r}}}))
"""
    found = answer(child, row=0, split="train")
    assert (found.state, found.error) == ("succeeded", None)
    assert found.result["asked"] == {"text": "fp32 int8 row bad good 0"}
    assert found.result["compressed"]["label"] == "good"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_split_that_is_a_folder_comes_with_its_files_alone(answer: Answer) -> None:
    child = f"""
import json
from pathlib import Path
found = sorted(path.as_posix() for path in Path("data").rglob("*") if path.is_file())
said = {{"asked": {{"text": " ".join(found)}}, "expected": "good", "original": {SAID!r}, "compressed": {SAID!r}}}
print(json.dumps(said))
"""
    found = answer(child, path="rows/train/a good one/1.jpg", named="rows/train", row=0, split="train")
    assert (found.state, found.error) == ("succeeded", None)
    assert found.result["asked"] == {"text": "data/rows/train/a good one/1.jpg"}


def test_a_reason_of_the_child_is_told(answer: Answer) -> None:
    child = (
        "from compression.schema.validation import Rejected; "
        "print(Rejected(reasons=({'code': 'c', 'cause': 'a\\0b'},)).model_dump_json())"
    )
    found = answer(child)
    assert (found.state, found.error) == ("failed", {"code": "c", "cause": "a\ufffdb"})


@pytest.mark.parametrize(
    ("child", "cause"),
    [
        ("import time; time.sleep(60)", "longer than 2 s"),
        ("print('no JSON')", "RuntimeError"),
        ("raise SystemExit(3)", "RuntimeError"),
        ("print('x' * (5 << 20))", "RuntimeError"),
        (
            "import json; said = {'milliseconds': float('nan'), 'runs': 1, 'runtime': 'r', 'bytes': 1};"
            "print(json.dumps({'asked': {}, 'original': said, 'compressed': said}))",
            "RuntimeError",
        ),
    ],
    ids=["hangs", "babbles", "crashes", "floods", "no-number"],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_child_that_does_not_answer_fails_its_question_alone(answer: Answer, child: str, cause: str) -> None:
    found = answer(child, **({"seconds": 2} if "sleep" in child else {}))
    assert (found.state, found.result, found.error["code"]) == ("failed", None, "answer_failed")
    assert cause in found.error["cause"]


def test_nothing_asks_models_that_were_deleted(settings: Settings, storage: LocalStorage) -> None:
    question = asked(storage, Question(text="good"))
    with writing() as session:
        row = session.get_one(Prediction, question)
        jobs.delete_job(session, row.team_id, row.job_id)
    assert not predict_next(settings, storage)
