"""A language model's teacher in 8 bits: what it is asked once it answers in float32, and the forecast counts what stays."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.modalities.registry import task_of
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.planning import memory as planning
from compression.planning.preflight import preflight
from compression.schema.recipe.distill import Distill, Teachers
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe, Train
from compression.schema.report.measurements import Shape
from compression.system import memory
from compression.training.save import TrainingCheckpointer
from tests.compression.engine.stages.test_teacher_precision import same
from tests.compression.planning.test_planning import DATA
from tests.compression.training.conftest import Listener, checkpointer, resumed
from tests.support.facts import decoder_facts
from tests.support.job_models import alone
from tests.support.stage_runs import distill, prune
from tests.support.tiny_bert import all_phases
from tests.support.tiny_language import TEXTS, model, tokenizer

TRAIN = Train(batch=4, max_length=32)
TASK = task_of("causal-lm", (), Evaluate(window=32))


PRUNE = Prune(ratio={"ffn": 0.5}, steps=2, multiple=8, calibration_rows=8, recovery=Recovery(epochs=2, rate=1e-2, by="teacher"))


@cache
def rows() -> PackedDataset:
    return PackedDataset.of([f"{text} {number}" for number in range(6) for text in TEXTS], tokenizer(bos=True), 32, TASK)


def state_of(recipe: Recipe, student: PreTrainedModel, *, tied: bool) -> StageContext:
    splits = {"train": rows(), "validation": rows(), "test": rows()}
    state = StageContext(recipe, splits, student, all_phases(), alone(student, splits))
    state.teacher = model(tie_word_embeddings=tied).requires_grad_(False)
    return state


def taught(precision: str, *, tied: bool) -> StageContext:
    settings = Distill(epochs=1, rate=1e-2, hidden=0.0, teachers=Teachers(precision=precision))
    state = state_of(Recipe(distill=settings, train=TRAIN), model(hidden_size=16, initializer_range=0.02), tied=tied)
    list(distill(state))
    assert any("8 bits" in note for note in state.notes) == (precision == "int8")
    return state


@pytest.mark.parametrize("tied", [True, False])
def test_answers_that_are_kept_are_those_of_float32(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same(taught("int8", tied=tied), taught("float32", tied=tied))
    monkeypatch.setattr("compression.distillation.teacher.TEACHER_BYTES", 0)  # it is asked again in each epoch
    assert not same(taught("int8", tied=tied), taught("float32", tied=tied))


def recovered(
    place: Path,
    precision: str = "auto",
    kind: str = "llama",
    checkpointer: TrainingCheckpointer | None = None,
    hear: Any = list,
) -> StageContext:
    distill = Distill(teachers=Teachers(precision=precision), spill_gib=0.0)
    recipe = Recipe(quantize=None, prune=PRUNE, distill=distill, train=TRAIN)
    state = state_of(recipe, model(kind), tied=False)
    state.teacher = model(kind).requires_grad_(False)
    state.scratch, state.checkpointer = place, checkpointer or state.checkpointer
    hear(prune(state))
    found, wanted = state.teacher.state_dict(), model(kind).state_dict()
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(weight) for name, weight in wanted.items())
    return state


@pytest.mark.parametrize("kind", ["llama", "gpt2", "deepseek_v3"])
def test_a_recovery_by_teacher_heeds_it_and_makes_it_float(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, rounded = recovered(tmp_path, "float32", kind), recovered(tmp_path, "int8", kind)
    assert same(rounded, whole)  # what it is asked once, before each training, it answers in float32
    assert len([note for note in rounded.notes if "8 bits" in note]) == 1
    assert len(rounded.notes) == len(whole.notes) + 1
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("compression.distillation.teacher.TEACHER_BYTES", 0)  # it is asked again in each epoch
    assert not same(recovered(tmp_path, "int8", kind), recovered(tmp_path, "float32", kind))


def test_a_recovery_beside_a_rounded_teacher_goes_on_beside_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.distillation.teacher.TEACHER_BYTES", 0)
    (tmp_path / "kept").mkdir()
    listener, given = Listener(tmp_path / "kept"), checkpointer(tmp_path)
    monkeypatch.setattr(memory, "available", lambda: 0)
    tight = recovered(tmp_path, checkpointer=given, hear=listener.hear)
    monkeypatch.setattr(memory, "available", lambda: None)
    assert not same(recovered(tmp_path), tight)
    last = [save.phase for save in listener.saves].index("recover, step 2 of 2") + 1
    again = recovered(tmp_path, checkpointer=resumed(tmp_path, listener, last))
    assert same(again, tight)
    assert again.notes == tight.notes


def test_an_output_layer_of_its_own_is_forecast_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(layers=4, hidden=64, heads=4, ffn=128, vocabulary=5000, groups=4, head_size=16)
    seen, found = list[int](), planning.rounded_bytes
    monkeypatch.setattr(planning, "rounded_bytes", lambda teacher: seen.append(teacher.spoken) or found(teacher))
    for task, outputs in (("causal-lm", 0), ("causal-lm", 5000), ("text-classification", 2)):
        labels = DATA.labels if outputs == 2 else ()
        data = DATA.model_copy(update={"task": task, "labels": labels, "characters": {"train": 9000}})
        recipe = Recipe(prepare=Prepare(epochs=0), quantize=None, prune=None)
        preflight(decoder_facts("llama", shape, outputs), data, recipe, Evaluate())
    assert seen == [0] * 2 + [5000 * 64] * 2 + [0] * 2  # on the CPU and on a card
