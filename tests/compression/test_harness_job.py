"""lm-eval's tasks as a part of jobs: each stage's row has what the task says of it, and the download says the same."""

from pathlib import Path
from typing import Any

import pytest

from compression import harness, harness_job, measure
from compression.catalog import check_task
from compression.errors import CompressionError, InvalidSpec, MissingResource
from compression.export import artifact
from compression.pipeline import compress
from compression.recipe import JobEvaluate, LmEval, Recipe
from compression.report import Finished, Log
from compression.saving import Pause
from tests.compression.language.tiny import model, tokenizer
from tests.compression.test_language_job import RECIPE, spec_of, write
from tests.mirror import QUESTIONS, mirror

SHORT: dict[str, Any] = {
    **RECIPE,
    "prepare": {"epochs": 1, "rate": 1e-2},
    "prune": None,
    "distill": None,
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(artifact, "figures", lambda spec, **_: measure.measure(spec))
    return mirror(tmp_path / "data")


def test_each_stage_is_asked_and_the_download_says_what_its_row_says(tmp_path: Path, data: Path) -> None:
    write(tmp_path, max_position_embeddings=128)
    asked = {"tasks": ["arc_easy"], "limit": 4, "few_shot": 0}
    spec = spec_of(SHORT, evaluate={"length": 16, "lm_eval": asked}, lm_eval_data=str(data))
    here = Path.cwd()
    events = list(compress(spec, tmp_path))
    assert Path.cwd() == here
    assert isinstance(events[-1], Finished)
    report = events[-1].report
    assert [row.stage for row in report.rows] == ["baseline", "quantized"]
    for row in report.rows:
        assert [(one.task, one.metric, one.rows, one.few_shot) for one in row.lm_eval] == [
            ("arc_easy", "acc", 4, 0),
            ("arc_easy", "acc_norm", 4, 0),
        ]
        assert all(0 <= one.value <= 1 and one.standard_error is not None for one in row.lm_eval)
        (note,) = [note for note in row.notes if note.startswith("lm-eval")]
        assert f"at most 4 documents a task: arc_easy acc {row.lm_eval[0].value:.4f} ±" in note
    said = [event.message for event in events if isinstance(event, Log) and event.message.startswith("lm-eval: arc_easy")]
    assert len(said) == 2
    (shipped,) = [one for one in report.artifacts if (one.kind, one.precision) == ("transformers", "int8")]
    folder = tmp_path / "out" / "artifacts" / shipped.name
    again = harness.evaluate(folder, ["arc_easy"], data=data, limit=4, few_shot=0, threads=1)
    assert shipped.stage == "quantized"
    assert [one.value for one in again.figures] == [one.value for one in report.rows[-1].lm_eval]
    assert len(QUESTIONS) == 5


def test_a_model_is_left_as_it_was_and_asking_stops_where_it_is_told_to(data: Path) -> None:
    network = model(max_position_embeddings=128).train()
    before = {name: id(parameter) for name, parameter in network.named_parameters()}
    asked, calls = LmEval(tasks=("arc_easy",), limit=2, batch=1), list[int]()

    def heed() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Pause

    with pytest.raises(Pause):
        list(harness_job.ask(network, tokenizer(), asked, data, 0, heed))
    assert len(calls) == 3
    assert {name: id(parameter) for name, parameter in network.named_parameters()} == before
    assert not network._forward_pre_hooks


@pytest.mark.parametrize(
    ("tasks", "has_data", "error", "param"),
    [
        (["arc_easy"], False, MissingResource, "evaluate.lm_eval"),
        (["arc_challenge_of_nobody"], True, InvalidSpec, "evaluate.lm_eval.tasks"),
    ],
)
def test_what_cannot_be_asked_is_known_before_any_training(
    tmp_path: Path, data: Path, tasks: list[str], has_data: bool, error: type[CompressionError], param: str
) -> None:
    write(tmp_path)
    place = {"lm_eval_data": str(data)} if has_data else {}
    spec = spec_of(SHORT, evaluate={"length": 16, "lm_eval": {"tasks": tasks}}, **place)
    with pytest.raises(error) as caught:
        list(compress(spec, tmp_path))
    assert caught.value.param == param
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_other_tasks_and_workers_without_the_package_are_told_so(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = JobEvaluate(lm_eval=LmEval(tasks=("arc_easy",)))
    with pytest.raises(InvalidSpec, match="language models") as caught:
        check_task("text-classification", Recipe(), asked)
    assert caught.value.param == "evaluate.lm_eval"
    spec = spec_of(SHORT, evaluate={"lm_eval": {"tasks": ["arc_easy"]}}, lm_eval_data=str(data))
    monkeypatch.setattr(harness, "version", lambda name: (_ for _ in ()).throw(harness.PackageNotFoundError(name)))
    with pytest.raises(MissingResource, match="not installed") as missing:
        harness_job.check(spec, tmp_path)
    assert "LATHE_LM_EVAL_DATA" in missing.value.remedy_text
