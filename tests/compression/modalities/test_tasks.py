"""Each task on a toy of it: training learns it, distillation passes it on, and what is shipped answers and scores the same."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from compression.engine.context import StageContext
from compression.evaluation.measure import read_rows
from compression.evaluation.runtimes.runner import open_artifact
from compression.evaluation.validate import logits, validate
from compression.export.manifest import write_config
from compression.export.onnx.exporter import write_onnx
from compression.export.onnx.trace import inputs_of
from compression.export.parity_check import verify
from compression.export.transformers.exporter import write_transformers
from compression.modalities.registry import scorer_of
from compression.modalities.text.artifact_tokenizer import write_tokenizer
from compression.modalities.text.batches import Batch
from compression.modalities.text.dataset import Dataset
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.artifact_formats import Kind
from compression.schema.recipe.base import Task
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe, Train
from tests.support.cards import card_of
from tests.support.stage_runs import distill, prepare, prune
from tests.support.toy_tasks import LENGTH, TASKS, opened

RECIPE = Recipe(
    prepare=Prepare(epochs=6, rate=3e-3),
    prune=Prune(ratio=0.5, multiple=8, calibration_rows=64),
    distill=Distill(epochs=4, rate=3e-3, hard=0.0),
    train=Train(batch=16, max_length=LENGTH),
)


@dataclass
class Learned:
    task: Task
    dataset: Dataset
    state: StageContext
    before: float
    encoder: Path


@pytest.fixture(scope="module", params=TASKS)
def learned(request: pytest.FixtureRequest, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    task: Task = request.param
    dataset, _, state = opened(task, tmp_path_factory.mktemp("toy"), encoder, RECIPE)
    before = state.validate().score
    list(prepare(state))
    return Learned(task, dataset, state, before, encoder)


def test_training_learns_it(learned: Learned) -> None:
    after = validate(learned.state.model, learned.state.rows["test"]).score
    assert after > 0.9
    assert after > learned.before + 0.2


def test_a_narrow_student_learns_it_from_the_teacher_alone(learned: Learned) -> None:
    state = learned.state
    teacher = state.teacher
    student = StageContext(RECIPE, state.rows, state.model, state.tracker, state.models, teacher)
    list(prune(student))
    rows = state.rows["validation"]
    whole, wanted = rows.batch(list(range(len(rows)))), logits(teacher, rows)

    def apart() -> float:
        return state.task.soft_loss(logits(student.model, rows), wanted, whole, 1.0).item()

    cut, before = student.validate().score, apart()
    list(distill(student))
    assert student.model.config.hidden_size == 16
    assert apart() < 0.5 * before
    assert student.validate().score >= cut


def test_soft_targets_are_nothing_for_the_teacher_itself(learned: Learned) -> None:
    rows, task = learned.state.rows["train"].at(list(range(24))), learned.state.task
    batch = rows.batch(list(range(24)))
    wanted = logits(learned.state.model, rows)
    assert task.soft_loss(wanted, wanted, batch, 3.0).item() == pytest.approx(0, abs=1e-6)
    noise = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))
    assert task.soft_loss(wanted + noise, wanted, batch, 3.0).item() > 0.01


def test_what_is_padding_counts_nowhere(learned: Learned) -> None:
    """Neither a loss nor a soft target changes when rows are padded further."""
    rows, task = learned.state.rows["train"].at(list(range(8))), learned.state.task
    batch, found = rows.batch(list(range(8))), logits(learned.state.model, rows)
    if found.ndim < 3:
        pytest.skip("one answer a row")
    wider = torch.cat([found, 9 * torch.randn(8, 5, found.shape[2], generator=torch.Generator().manual_seed(0))], dim=1)
    ids, mask = (torch.nn.functional.pad(tensor, (0, 5)) for tensor in (batch.ids, batch.mask))
    labels = batch.labels if task.name == "question-answering" else torch.nn.functional.pad(batch.labels, (0, 5), value=-100)
    padded = Batch(ids, mask, labels, batch.rows)
    assert task.loss(wider, padded).item() == pytest.approx(task.loss(found, batch).item(), rel=1e-5)
    assert task.soft_loss(wider, 2 * wider, padded, 2.0).item() == pytest.approx(
        task.soft_loss(found, 2 * found, batch, 2.0).item(), rel=1e-4
    )


@pytest.mark.parametrize(
    ("learned", "kind", "int8"),
    [
        ("text-pair-classification", "onnx", True),
        ("text-regression", "onnx", False),
        ("text-regression", "transformers", True),
        ("token-classification", "onnx", True),
        ("token-classification", "transformers", True),
        ("question-answering", "onnx", False),
        ("question-answering", "onnx", True),
        ("question-answering", "transformers", True),
    ],
    indirect=["learned"],
)
def test_what_is_shipped_answers_as_the_engine_does(
    learned: Learned,
    tmp_path: Path,
    kind: Kind,
    int8: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state, dataset = learned.state, learned.dataset
    model = copy.deepcopy(state.teacher)
    if int8:
        insert_fake_quantization(model)
    (write_onnx if kind == "onnx" else write_transformers)(model, tmp_path, int8=int8)
    write_tokenizer(learned.encoder, tmp_path, LENGTH, learned.task)
    pad = write_config(model, tmp_path, dataset.labels, LENGTH, kind)
    scorer = scorer_of(learned.task, Evaluate(), dataset.labels)
    verify(model, tmp_path, kind=kind, int8=int8, sample=dataset.judged("validation")[:8], scorer=scorer, pad_id=pad)
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in dataset.judged("test")))
    runner = open_artifact(kind, tmp_path, threads=1)
    score = scorer.open_split(runner, scorer.reader(tmp_path), read_rows(test)).answer(lambda _: None).score
    assert (score.metric, score.rows) == (state.task.metric, 80)
    assert score.value == pytest.approx(validate(model, state.rows["test"]).score, abs=0.05 if int8 else 1e-4)
    assert score.rows_changed_by_batching == 0
    assert score.value == pytest.approx(score.value_at_batch_32, abs=1e-3)
    assert score.value > score.chance + 0.2
    assert 0 <= score.standard_error < 0.1
    assert score.metrics.keys() == score.standard_errors.keys()
    assert score.standard_errors[score.metric] == score.standard_error
    assert score.metrics[score.metric] == score.value
    # The card's own code answers too, with nothing of ours.
    pairs = learned.task in ("text-pair-classification", "text-regression")  # a number may be asked of either
    inputs = inputs_of(model)
    shown = card_of(kind=kind, task=learned.task, max_length=LENGTH, inputs=inputs, pairs=pairs, portable=True).usage()
    assert ("Its second text." in shown) is pairs
    assert "compression" not in shown
    monkeypatch.chdir(tmp_path)
    exec(shown, {})
    printed = capsys.readouterr().out.split()
    if learned.task == "token-classification":
        assert printed[0::2] == ["One", "text.", "And", "another,", "which", "is", "longer."]
        assert set(printed[1::2]) <= set(dataset.labels)
    elif learned.task == "text-regression":
        assert len([float(number) for number in printed]) == 2
    elif learned.task == "text-pair-classification":
        assert len(printed) == 2
        assert set(printed) <= {"yes", "no"}
    else:
        answered = " ".join(printed)
        assert answered == "(no answer)" or answered in "A context, in which the answer stands."


def test_a_pair_is_told_apart_by_its_types(encoder: Path, tmp_path: Path) -> None:
    _, _, state = opened("text-pair-classification", tmp_path, encoder, RECIPE)
    rows = state.rows["train"]
    batch = rows.batch([0, 1])
    for line, row in enumerate((0, 1)):
        tokens = len(rows.tokens[row])
        first = rows.tokens[row].index(3) + 1  # [CLS] the first text [SEP]
        assert batch.types[line].tolist() == [0] * first + [1] * (tokens - first) + [0] * (batch.types.shape[1] - tokens)
    with torch.no_grad():
        told = state.model(**batch.inputs).logits
        silent = state.model(input_ids=batch.ids, attention_mask=batch.mask).logits
    assert not torch.allclose(told, silent, atol=1e-4)


@pytest.mark.parametrize("metric", ["f1", "accuracy_f1", "matthews"])
def test_epochs_are_chosen_by_the_metric_that_was_asked_for(encoder: Path, tmp_path: Path, metric: str) -> None:
    evaluate = Evaluate.model_validate({"metric": metric, "positive": "no"})
    dataset, _, state = opened("text-pair-classification", tmp_path, encoder, RECIPE, evaluate)
    rows = state.rows["test"]
    always_no = torch.tensor([[1.0, 0.0]]).repeat(len(rows), 1)
    share = dataset.splits["test"].labels.count("no") / len(rows)
    f1 = 2 * share / (1 + share)
    wanted = {"f1": f1, "accuracy_f1": (share + f1) / 2, "matthews": 0.0}[metric]
    assert state.task.metric == metric
    assert state.task.score(always_no, rows) == pytest.approx(wanted)
