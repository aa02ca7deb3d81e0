"""How sure a validation score is, for tasks of every kind."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from compression.evaluation import standard_error as standard_errors
from compression.evaluation.standard_error import answers_of, group_losses, judged, kept_error, scores_without, standard_error
from compression.evaluation.validate import validate
from compression.modalities.registry import task_of
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.modalities.text.causal_lm.packed_language_model import PackedTexts
from compression.schema.recipe.recipe import Recipe, Train
from compression.training.config import TrainingConfig
from compression.training.trainer import train
from tests.compression.training.test_trainer import finish, loss_of
from tests.support import tiny_language as language, toy_tasks as toys
from tests.support.tiny_bert import encoded, sentences
from tests.support.tiny_language import TEXTS


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


def test_a_language_model_is_asked_of_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, texts = task_of("causal-lm"), [f"{text} {number}" for number in range(12) for text in TEXTS]
    rows = PackedDataset.of(texts, language.tokenizer(bos=True), 24, task)
    torch.manual_seed(0)
    original, other = language.model("llama"), language.model("llama", initializer_range=0.05)
    packed, members = task.packed, standard_errors._members(rows)
    without = [rows.at(standard_errors._numbers(~one)) for one in members]
    shares = [math.exp(packed.loss(original, some) - packed.loss(other, some)) for some in without]
    expected = math.sqrt((len(members) - 1) * float(np.var(shares)))
    asked: list[int] = []
    plain = PackedTexts.loss

    def loss(own: PackedTexts, model: nn.Module, some: PackedDataset, parts: int = 1) -> float:
        asked.append(len(some))
        return plain(own, model, some, parts)

    monkeypatch.setattr(PackedTexts, "loss", loss)
    answers = {each: answers_of(each, rows) for each in (other, original)}
    without_each = {each: scores_without(found, rows) for each, found in answers.items()}
    assert kept_error(without_each[other], without_each[original]) == pytest.approx(expected, rel=1e-3)
    assert expected > 0
    assert sum(asked) == 2 * len(rows)
    score = judged(answers[other], rows)
    assert (score.score, score.inverse) == (pytest.approx(validate(other, rows).score), True)


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
