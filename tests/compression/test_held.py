"""A language model's teacher in 8 bits: what it is asked once it answers in float32, and the forecast counts what stays."""

from functools import cache

import pytest
import torch
from transformers import PreTrainedModel

from compression.catalog import cost, preflight
from compression.catalog.decoders import decoder_parameters
from compression.language.rows import TextRows
from compression.recipe import Distill, Evaluate, Prepare, Recipe, Teachers, Train
from compression.report import Shape
from compression.stages.distill import distill
from compression.state import State
from compression.tasks import of
from tests.compression.conftest import all_phases
from tests.compression.language.tiny import TEXTS, model, tokenizer
from tests.compression.test_catalog import DATA, MODEL

TRAIN = Train(batch=4, max_length=32)
TASK = of("causal-lm", (), Evaluate(window=32))


@cache
def rows() -> TextRows:
    return TextRows.of([f"{text} {number}" for number in range(6) for text in TEXTS], tokenizer(bos=True), 32, TASK)


def state_of(recipe: Recipe, student: PreTrainedModel, *, tied: bool) -> State:
    state = State(recipe, {"train": rows(), "validation": rows(), "test": rows()}, student, all_phases())
    state.teacher = model(tie_word_embeddings=tied).requires_grad_(False)
    return state


def weights(state: State) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in state.model.parameters()]


def same(one: State, other: State) -> bool:
    return all(mine.equal(theirs) for mine, theirs in zip(weights(one), weights(other), strict=True))


def taught(precision: str, *, tied: bool) -> State:
    settings = Distill(epochs=1, rate=1e-2, hidden=0.0, teachers=Teachers(precision=precision))  # type: ignore[arg-type]
    state = state_of(Recipe(distill=settings, train=TRAIN), model(hidden_size=16, initializer_range=0.02), tied=tied)
    list(distill(state))
    assert any("8 bits" in note for note in state.notes) == (precision == "int8")
    return state


@pytest.mark.parametrize("tied", [True, False])
def test_answers_that_are_kept_are_those_of_float32(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same(taught("int8", tied=tied), taught("float32", tied=tied))
    monkeypatch.setattr("compression.teacher.TEACHER_BYTES", 0)  # it is asked again in each epoch
    assert not same(taught("int8", tied=tied), taught("float32", tied=tied))


def test_an_output_layer_of_its_own_is_forecast_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(layers=4, hidden=64, heads=4, ffn=128, vocabulary=5000, groups=4, head_size=16)
    seen, found = list[int](), cost.model_bytes
    monkeypatch.setattr(cost, "model_bytes", lambda *given: seen.append(given[-1]) or found(*given))
    for task, outputs in (("causal-lm", 0), ("causal-lm", 5000), ("text-classification", 2)):
        facts = MODEL.model_copy(
            update={
                "family": "llama",
                "architecture": "LlamaForCausalLM",
                "shape": shape,
                "parameters": decoder_parameters("llama", shape, outputs=outputs),
            }
        )
        data = DATA.model_copy(
            update={"task": task, "labels": DATA.labels if outputs == 2 else (), "characters": {"train": 9000}}
        )
        preflight(facts, data, Recipe(prepare=Prepare(epochs=0), quantize=None, prune=None), Evaluate())
    assert seen == [0, 5000 * 64, 0]
