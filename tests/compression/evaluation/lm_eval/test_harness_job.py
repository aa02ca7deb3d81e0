"""lm-eval's tasks as a part of jobs: each stage's row has what the task says of it, and the download says the same."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from lm_eval.models.huggingface import HFLM

from compression.engine.pipeline import compress
from compression.evaluation.lm_eval import harness, harness_job, harness_model
from compression.modalities.text.preprocessor import TextPreprocessor
from compression.planning.preflight import check_task
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.errors import CompressionError, InvalidSpec, MissingResource
from compression.schema.events import Log, Progress
from compression.schema.recipe.recipe import JobEvaluate, LmEval, Recipe
from compression.system.child_process import Step
from compression.system.interrupts import Pause
from tests.compression.engine.test_language_job import RECIPE, spec_of, write
from tests.support.mirror import mirror
from tests.support.tiny_language import model, tokenizer

SHORT: dict[str, Any] = {**RECIPE, "prepare": {"epochs": 1, "rate": 1e-2}, "prune": None, "distill": None}


def asked_here(spec: harness_job.AskSpec, waiting: Callable[[], None] = lambda: None) -> Iterator[Step | harness.Found]:
    """Take the place of `harness_job.answers`: ask in this process, which has begun."""
    told: list[Step | harness.Found] = []
    try:
        harness_model.ask(spec, told.append)
    except CompressionError as problem:
        raise harness_job._error(problem.as_dict()) from problem
    yield from told


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as fresh ones have it; else it is asked again and again
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr(harness_job, "answers", asked_here)


def reading() -> TextPreprocessor:
    return TextPreprocessor(tokenizer(), 64, types=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mirror(tmp_path / "data")


@pytest.mark.usefixtures("here")
def test_each_stage_is_asked_and_the_download_says_so(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    likelihoods: list[float] = []
    plain = HFLM.loglikelihood

    def heard(self: Any, requests: list[Any], **settings: Any) -> Any:
        answers = plain(self, requests, **settings)
        likelihoods.extend(value for value, _ in answers)
        return answers

    monkeypatch.setattr(HFLM, "loglikelihood", heard)
    write(tmp_path, max_position_embeddings=128)
    asked = {"tasks": ["arc_easy"], "limit": 4, "few_shot": 0}
    spec = spec_of(SHORT, evaluate={"length": 16, "lm_eval": asked}, lm_eval_data=str(data))
    here = Path.cwd()
    events = list(compress(spec, tmp_path))
    assert Path.cwd() == here
    report = events[-1].report
    assert [row.stage for row in report.rows] == ["baseline", "quantized"]
    for row in report.rows:
        told = [("arc_easy", metric, 4, 0) for metric in ("acc", "acc_norm")]
        assert [(one.task, one.metric, one.rows, one.few_shot) for one in row.lm_eval] == told
        assert all(0 <= one.value <= 1 and one.standard_error is not None for one in row.lm_eval)
        (note,) = [note for note in row.notes if note.startswith("Beside the score: 2 figures of lm-eval")]
        assert "at most 4 documents a task" in note
    said = [event.message for event in events if isinstance(event, Log) and event.message.startswith("lm-eval: arc_easy")]
    assert [f"arc_easy acc {row.lm_eval[0].value:.4f} ±" in one for row, one in zip(report.rows, said, strict=True)] == [
        True
    ] * 2
    told = [(event.step, event.fraction) for event in events if isinstance(event, Progress) and event.phase == "lm-eval"]
    assert [step for step, _ in told if step == 1000] == [1000, 1000]
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)
    (shipped,) = [one for one in report.artifacts if (one.kind, one.precision) == ("transformers", "int8")]
    folder = tmp_path / "out" / "artifacts" / shipped.name
    again = harness.evaluate(folder, ["arc_easy"], data=data, limit=4, few_shot=0, threads=1)
    assert shipped.stage == "quantized"
    assert [one.value for one in again.figures] == [one.value for one in report.rows[-1].lm_eval]
    # Not the answers alone, which a model without integers might give too: how likely it holds each choice.
    baseline, quantized, downloaded = (likelihoods[at : at + 12] for at in (0, 12, 24))
    assert len(likelihoods) == 36
    to_download, to_baseline = (np.abs(np.subtract(quantized, other)).mean() for other in (downloaded, baseline))
    assert to_baseline > 1e-3  # its integers were simulated
    assert to_download < 0.1  # values on the edge of two integers fall either way; choices are tens of nats


@pytest.mark.usefixtures("here")
def test_a_task_is_written_out_with_the_integers_simulated(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    plain = HFLM.generate_until

    def heard(self: Any, requests: list[Any], **settings: Any) -> Any:
        written.extend(answers := plain(self, requests, **settings))
        return answers

    monkeypatch.setattr(HFLM, "generate_until", heard)
    write(tmp_path, max_position_embeddings=512)
    asked = {"tasks": ["gsm8k"], "limit": 2, "few_shot": 0}
    events = list(compress(spec_of(SHORT, evaluate={"length": 16, "lm_eval": asked}, lm_eval_data=str(data)), tmp_path))
    for row in events[-1].report.rows:
        told = {("gsm8k", "exact_match", answers, 2) for answers in ("strict-match", "flexible-extract")}
        assert {(one.task, one.metric, one.filter, one.rows) for one in row.lm_eval} == told
    assert len(written) == 4
    assert all(written)


@pytest.mark.usefixtures("here")
def test_a_job_paused_in_asking_comes_to_the_same_figures(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.system.progress.SECONDS_BETWEEN", 0.0)
    write(tmp_path, max_position_embeddings=128)
    asked = {"tasks": ["arc_easy"], "limit": 4, "few_shot": 0, "batch": 1}
    settings = {"evaluate": {"length": 16, "lm_eval": asked}, "lm_eval_data": str(data)}
    whole = list(compress(spec_of(SHORT, output="whole", **settings), tmp_path))[-1]
    wanted = Event()

    def until_paused() -> None:
        for event in compress(spec_of(SHORT, **settings), tmp_path, wanted.is_set):
            if isinstance(event, Progress) and (event.stage, event.phase) == ("quantized", "lm-eval"):
                wanted.set()

    with pytest.raises(Pause):
        until_paused()
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["baseline"]
    shutil.copytree(tmp_path / "out" / "checkpoints", tmp_path / "kept")
    again = list(compress(spec_of(SHORT, output="again", resume="kept", **settings), tmp_path))[-1]
    assert [row.lm_eval for row in again.report.rows] == [row.lm_eval for row in whole.report.rows]
    assert all(row.lm_eval for row in again.report.rows)


def test_a_fresh_process_says_what_this_does_until_paused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model(max_position_embeddings=512, tie_word_embeddings=False)
    network.config.tie_word_embeddings = True  # as of a checkpoint that has both, which transformers leaves apart
    insert_fake_quantization(network)
    told, cache = list[Any](), tmp_path / "cache"

    def check_pause() -> None:
        if any(isinstance(said, Log) for said in told):
            raise Pause

    def precompute(*tasks: str) -> Iterator[Any]:
        asked = LmEval(tasks=tasks, limit=4, few_shot=0, batch=1)
        return harness_job.ask(network, reading(), asked, data, cache, seed=0, check_pause=check_pause)

    with pytest.raises(Pause):
        for said in precompute("arc_easy", "gsm8k"):
            told.append(said)
    assert not list(cache.glob("model-*"))
    (fresh,) = [said for said in told if isinstance(said, Log)]
    told.clear()
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr(harness_job, "answers", asked_here)
    assert next(said for said in precompute("arc_easy") if isinstance(said, Log)) == fresh


@pytest.mark.usefixtures("here")
def test_no_more_go_together_than_their_logits_have_room(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, rows = model(max_position_embeddings=128), list[int]()
    monkeypatch.setattr(HFLM, "_model_call", lambda self, inps, **_: rows.append(len(inps)) or network(inps).logits)

    def most(**settings: Any) -> int:
        rows.clear()
        asked = LmEval(tasks=("arc_easy",), limit=4, batch=4)
        list(harness_job.ask(network, reading(), asked, data, tmp_path / "cache", seed=0, check_pause=lambda: None, **settings))
        return max(rows)

    assert (most(), most(parts=2)) == (4, 2)
    monkeypatch.setattr(harness_model, "HARNESS_BYTES", 2 * 2 * 4 * 60 * network.config.vocab_size)
    assert most() == 2
    monkeypatch.setattr(harness_model, "HARNESS_BYTES", 1)
    assert most() == 1


def test_a_job_builds_the_index_of_tasks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "cache" / "tasks.json"
    built = harness_model._of_job(kept)
    monkeypatch.setattr(harness_model, "_all_tasks", lambda: pytest.fail("it is built again"))
    read = harness_model._of_job(kept)
    told = [{name: (one.kind, one.yaml_path, one.tags) for name, one in each.task_index.items()} for each in (built, read)]
    assert told[0] == told[1]
    assert (read.all_tasks, read.match_tasks(["arc_*"])) == (built.all_tasks, built.match_tasks(["arc_*"]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e80])
def test_what_json_cannot_hold_is_no_number(value: float) -> None:
    (found,) = harness.figures({"results": {"t": {"word_perplexity,none": value, "word_perplexity_stderr,none": value}}})
    assert (found.value, found.standard_error) == (None, None)
    assert harness_job.figures_line([found]) == "t word_perplexity no number"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("asked", "has_data", "error", "said"),
    [
        ({"tasks": ["arc_easy"]}, False, MissingResource, "no data of lm-eval's tasks"),
        ({"tasks": ["arc_easy", "piqa"]}, True, MissingResource, "no data of piqa"),
        ({"tasks": ["arc_of_nobody"]}, True, InvalidSpec, "no task 'arc_of_nobody'"),
        ({"tasks": ["gsm8k"], "few_shot": 1}, True, InvalidSpec, "write 256 tokens"),
        ({"tasks": ["gsm8k"], "few_shot": 50}, True, InvalidSpec, "cannot make requests of gsm8k"),
    ],
)
def test_what_cannot_be_asked_is_known_before_any_training(
    tmp_path: Path, data: Path, asked: dict[str, Any], has_data: bool, error: type[CompressionError], said: str
) -> None:
    write(tmp_path)
    place = {"lm_eval_data": str(data)} if has_data else {}
    spec = spec_of(SHORT, evaluate={"length": 16, "lm_eval": asked}, **place)
    with pytest.raises(error, match=said, check=lambda problem: str(problem.param).startswith("evaluate.lm_eval")):
        list(compress(spec, tmp_path))
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_other_tasks_and_workers_without_it_are_told_so(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = JobEvaluate(lm_eval=LmEval(tasks=("arc_easy",)))
    with pytest.raises(InvalidSpec, match="language models", check=lambda error: error.param == "evaluate.lm_eval"):
        check_task("text-classification", Recipe(), asked)
    spec = spec_of(SHORT, evaluate={"lm_eval": {"tasks": ["arc_easy"]}}, lm_eval_data=str(data))
    monkeypatch.setattr(harness, "version", lambda name: (_ for _ in ()).throw(harness.PackageNotFoundError(name)))
    with pytest.raises(MissingResource, match="not installed", check=lambda error: "LATHE_LM_EVAL_DATA" in error.remedy_text):
        harness_job.check(spec, tmp_path, 64)
