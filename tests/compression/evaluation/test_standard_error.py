"""How sure a validation score is, for tasks of every kind."""

import math
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.evaluation.standard_error import group_losses, standard_error
from compression.evaluation.validate import validate
from compression.schema.recipe.recipe import Recipe, Train
from compression.training.config import TrainingConfig
from compression.training.trainer import train
from tests.compression.training.test_trainer import finish, loss_of
from tests.support import toy_tasks as toys
from tests.support.tiny_bert import encoded, sentences


def test_of_accuracy_it_is_what_the_formula_says(model: BertForSequenceClassification) -> None:
    rows = encoded(sentences(2000, 5))
    finish(train(model, TrainingConfig("prepare", 2, 2e-3, 16, 0), encoded(sentences(320, 1)), rows, loss_of(model)))
    share = validate(model, rows).score
    assert 0.55 < share < 0.999
    assert standard_error(model, rows) == pytest.approx(math.sqrt(share * (1 - share) / 2000), rel=0.5)
    assert standard_error(model, rows.at(list(range(500)))) == pytest.approx(2 * standard_error(model, rows), rel=0.6)


def test_a_single_row_says_nothing(model: BertForSequenceClassification) -> None:
    assert standard_error(model, encoded(sentences(1, 5))) == 0.0


def test_a_model_that_is_too_sure_of_itself_has_the_loss_of_what_it_knows(model: BertForSequenceClassification) -> None:
    rows = encoded(sentences(400, 5))
    finish(train(model, TrainingConfig("prepare", 2, 2e-3, 16, 0), encoded(sentences(320, 1)), rows, loss_of(model)))
    plain = []
    for _ in range(2):  # a model as sure as it should be, and one that is four times as sure of the same answers
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter.mul_(4)
        plain.append(-validate(model, rows).negative_loss)
    assert plain[1] > 1.2 * plain[0]
    assert group_losses(model, rows).mean().item() < 1.05 * plain[0]


@pytest.mark.parametrize("task", toys.TASKS)
def test_every_task_has_one(task: str, tmp_path: Path, encoder: Path) -> None:
    _, _, state = toys.opened(task, tmp_path, encoder, Recipe(train=Train(batch=16)))
    found = standard_error(state.model, state.rows["validation"])
    assert math.isfinite(found)
    assert found >= 0
    losses = group_losses(state.model, state.rows["validation"])
    assert losses.isfinite().all()
    assert 2 <= len(losses) <= 20
    assert not torch.is_inference(next(state.model.parameters()))
