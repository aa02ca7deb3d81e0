"""What a lesson holds a student against: the layers that the recipe names, attention as it says, answers at its temperature."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.distillation.losses import attention_score_loss, hidden_state_loss, relation_loss
from compression.distillation.objective import DistillationObjective
from compression.distillation.teacher import FeatureRequest, request_features
from compression.engine.context import StageContext
from compression.engine.stages.objectives import objective_for
from compression.engine.stages.teacher_ensemble import EnsembleOutputs
from compression.modalities.registry import task_of
from compression.modalities.text.batches import Batch
from compression.models.adapters.registry import encoder_of
from compression.quantization.precision import gradient_precision
from compression.schema.recipe.distill import Distill, Weights
from compression.schema.recipe.recipe import Recipe
from compression.system.progress import run_silently
from tests.support.tiny_bert import lesson_of, state_of, tiny_config

ROWS = [0, 5, 2, 9]
TASK = task_of("text-classification")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """No processor's bfloat16 hides how near a loss is to what it should be."""
    with gradient_precision("float32"):
        yield


@pytest.fixture
def state() -> StageContext:
    """A student of two layers, with weights of its own, beside a teacher of four; both have four heads."""
    torch.manual_seed(3)
    found = state_of(BertForSequenceClassification(tiny_config(num_labels=2)).eval(), Recipe())
    found.teacher = BertForSequenceClassification(tiny_config(num_labels=2, num_hidden_layers=4)).eval().requires_grad_(False)
    return found


def objective(state: StageContext, **settings: Any) -> tuple[DistillationObjective, Batch]:
    terms = {"soft": 0.0, "hard": 0.0, "hidden": 0.0, **settings}
    rows = state.rows["train"]
    return lesson_of(state, Distill(**terms), rows), rows.batch(ROWS)


def learning_layers(state: StageContext) -> list[int]:
    """List the student's layers, from 1, that the gradients reach."""
    layers = encoder_of(state.model).layers(state.model)
    return [n for n, layer in enumerate(layers, 1) if layer.up.weight.grad is not None and layer.up.weight.grad.any()]


@pytest.mark.parametrize(
    ("layers", "mine", "theirs"),
    [("uniform", (1, 2), (2, 4)), ("last", (1, 2), (3, 4)), (((1, 3), (2, 1)), (1, 2), (3, 1)), (((1, 4),), (1,), (4,))],
)
def test_states_are_of_paired_layers(state: StageContext, layers: Any, mine: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    taught, batch = objective(state, hidden=1.0, embedding=0.0, layers=layers)
    sides = ((state.model, mine), (state.teacher, theirs))
    given, wanted = (request_features(model, batch, TASK, FeatureRequest(places)).hidden for model, places in sides)
    found = taught(batch)
    assert found.item() == pytest.approx(hidden_state_loss(given, wanted, taught.projections[0]).item(), rel=2e-3)
    found.backward()
    assert learning_layers(state) == list(mine)


def test_a_schedule_may_lead_to_the_embedding_layer(state: StageContext) -> None:
    rows = state.rows["train"]
    for to, apart in ((Weights(embedding=1.0), True), (Weights(hidden=0.5), False)):
        settings = Distill(weighting="linear", to=to)
        found = run_silently(objective_for(state, settings, EnsembleOutputs(state.teacher, rows), rows))
        assert found.feature_losses.comparison.apart == apart


@pytest.mark.parametrize(
    ("by", "layers", "mine", "theirs"),
    [
        ("auto", "uniform", (1, 2), (2, 4)),
        ("scores", "last", (1, 2), (3, 4)),
        ("relations", "uniform", 2, 4),
        ("relations", ((1, 2),), 1, 2),
    ],
)
def test_attention_is_compared_as_the_recipe_says(state: StageContext, by: Any, layers: Any, mine: Any, theirs: Any) -> None:
    taught, batch = objective(state, attention=1.0, attention_by=by, layers=layers)
    kind = "relations" if by == "relations" else "scores"
    sides = ((state.model, mine), (state.teacher, theirs))
    given, wanted = (request_features(one, batch, TASK, FeatureRequest(**{kind: at})) for one, at in sides)
    compared = relation_loss if by == "relations" else attention_score_loss
    expected = compared(getattr(given, kind), getattr(wanted, kind), batch.mask, 4)
    found = taught(batch)
    assert found.item() == pytest.approx(expected.item(), rel=2e-3)
    found.backward()
    # Values are part of relations and of no scores: those of the last layer that is compared learn in one case alone.
    last = encoder_of(state.model).layers(state.model)[mine - 1 if by == "relations" else mine[-1] - 1]
    assert (last.value.weight.grad is not None and bool(last.value.weight.grad.any())) == (by == "relations")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_targets_and_their_gradient_are_of_the_recipe_s_temperature(state: StageContext, temperature: float) -> None:
    with torch.no_grad():  # surer of themselves: where logits are small, the temperature changes next to nothing
        for model in (state.model, state.teacher):
            model.classifier.weight.mul_(20)
    taught, batch = objective(state, soft=1.0, temperature=temperature)
    with torch.no_grad():
        given, wanted = (model(**batch.inputs).logits / temperature for model in (state.model, state.teacher))
        p, q = wanted.softmax(-1), given.softmax(-1)
    found = taught(batch)
    assert found.item() == pytest.approx((temperature**2 * (p * (p / q).log()).sum(-1).mean()).item(), rel=1e-3)
    found.backward()
    # The bias is added to every row's logits, so its gradient is theirs, added up: τ (q − p) of each row, of whose losses
    # the mean was taken.
    assert torch.allclose(state.model.classifier.bias.grad, temperature * (q - p).mean(dim=0), rtol=1e-3, atol=1e-6)


def test_a_batch_without_labels_teaches_nothing_by_labels_alone_and_ends_no_training(state: StageContext) -> None:
    taught, batch = objective(state, hard=1.0)
    value = taught(replace(batch, labelled=torch.zeros(len(batch.rows), dtype=torch.bool)))
    assert value.item() == 0
    value.backward()
    assert learning_layers(state) == []
    half = replace(batch, labelled=torch.tensor([True, False, True, False]))
    wanted = TASK.loss(state.model(**batch.inputs).logits[::2], batch.at(slice(None, None, 2))) / 2
    assert torch.allclose(taught(half), wanted), "the mean is over all rows, those without labels too"
