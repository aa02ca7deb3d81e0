"""The floor that a tuned original must reach."""

from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.engine.stages.linear_probe import features, linear_probe
from compression.modalities.tasks import linear_models
from compression.schema.recipe.recipe import Recipe
from tests.support import toy_tasks as toys
from tests.support.tiny_bert import state_of


def test_features_are_means_over_real_tokens(model: BertForSequenceClassification) -> None:
    rows = state_of(model, Recipe()).rows["validation"]
    found = features(model, rows)
    alone = model.bert(torch.tensor([rows.tokens[3]])).last_hidden_state.mean(dim=1)
    assert found.shape == (64, 32)
    assert torch.allclose(found[3], alone[0], atol=1e-5)


def test_it_finds_what_lies_in_the_features_and_leaves_the_model_alone(model: BertForSequenceClassification) -> None:
    state = state_of(model, Recipe())
    before = [parameter.clone() for parameter in model.parameters()]
    assert linear_probe(state) > state.task.chance(state.rows["validation"]) + 0.1
    assert all(one.equal(other) for one, other in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("task", "has_one"), [(task, task in ("text-pair-classification", "text-regression")) for task in toys.TASKS]
)
def test_it_is_for_labels_and_numbers_of_texts(task: str, has_one: bool, tmp_path: Path, encoder: Path) -> None:
    _, _, state = toys.opened(task, tmp_path, encoder, Recipe())
    assert (linear_probe(state) is not None) is has_one


def test_a_label_that_train_lacks_is_never_answered() -> None:
    found = linear_models.class_scores([[0.0], [1.0], [0.1], [0.9]], [0, 2, 0, 2], [[0.05], [0.95]])
    assert found.argmax(axis=1).tolist() == [0, 2]
    assert found[:, 1].tolist() == [-float("inf")] * 2
    assert linear_models.class_scores([[0.0], [1.0]], [1, 1], [[5.0]]).argmax(axis=1).tolist() == [1]
