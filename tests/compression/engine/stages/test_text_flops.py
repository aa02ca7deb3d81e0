"""A model of text is cut to a target of multiply-adds, with the solver and without; torch counts as many in what is left."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from compression.engine.shipping import count_flops
from compression.engine.stages.prune import aimed, model_sizes
from compression.models.adapters.registry import adapter_of
from compression.schema.recipe.base import Task
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate
from tests.compression.engine.stages.test_solved_widths import encoder_state, recipe_of
from tests.support import decoder_models
from tests.support.stage_runs import prune

KEPT = 0.6


def operations(model: PreTrainedModel, length: int) -> int:
    count = model_sizes(model, None, length).operations
    assert count is not None
    return count(adapter_of(model).shape_of(model.config))


@pytest.mark.parametrize("search", [None, "solver"])
@pytest.mark.parametrize("length", [16, 64])
def test_an_encoder_is_cut_to_no_more_multiply_adds_than_the_target(tmp_path: Path, search: str | None, length: int) -> None:
    state = encoder_state(tmp_path, target_flops=1 - KEPT, search=search)
    state.length = length
    whole = operations(state.model, length)
    if search is None:
        shape = aimed(state.model, state.recipe, None, length)
    list(prune(state))
    if search is None:
        assert adapter_of(state.model).shape_of(state.model.config) == shape
    counted = count_flops(state.model, Evaluate(length=length), state.task.name)
    assert counted == 2 * operations(state.model, length)
    assert 0.6 * KEPT * whole < counted / 2 <= KEPT * whole


HEADS = [
    ("ForCausalLM", "causal-lm"),
    ("ForSequenceClassification", "text-classification"),
    ("ForQuestionAnswering", "question-answering"),
]


@pytest.mark.parametrize(("head", "task"), HEADS)
def test_a_decoders_cut_is_planned_for_its_output_layer_too(head: str, task: Task) -> None:
    model = decoder_models.tiny("llama", head, pad_token_id=1)
    recipe, length = recipe_of(Prune(target_flops=1 - KEPT, multiple=8)), 32
    shape = aimed(model, recipe, None, length)
    count = model_sizes(model, None, length).operations
    assert count is not None
    assert 0.6 * KEPT * operations(model, length) < count(shape) <= KEPT * operations(model, length)
    counted = count_flops(model, Evaluate(length=length), task)
    assert counted == pytest.approx(2 * operations(model, length), rel=0.01)
