"""Training whose number of epochs is open: the rate falls when nothing is gained, from the best weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import BertForSequenceClassification

from compression.evaluation.validate import Validation
from compression.modalities.text.batches import Batch
from compression.schema.errors import TrainingDiverged
from compression.system.progress import Step
from compression.training.config import TrainingConfig
from compression.training.trainer import train
from compression.training.work import TrainingHooks
from tests.compression.training.test_trainer import finish, loss_of
from tests.support.tiny_bert import encoded, sentences

ROWS = encoded(sentences(32, 1))  # two steps an epoch
OPEN = TrainingConfig(
    "prepare", 40, 1e-3, 16, 0, warmup=0.2, warm_epochs=5, patience=3, plateau=0.5, least_gain=0.01, first_gain=0.01
)


def scripted(scores: list[float], model: BertForSequenceClassification) -> tuple[Callable[[], Validation], list[list[Tensor]]]:
    """Validate by a list, the last score for ever after, and keep the weights that each call saw."""
    seen: list[list[Tensor]] = []

    def judge() -> Validation:
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        return Validation(scores[min(len(seen), len(scores)) - 1], 0.0)

    return judge, seen


def test_the_rate_falls_after_each_epoch_without_gain_and_best_weights_come_back(model: BertForSequenceClassification) -> None:
    judge, seen = scripted([0.5, 0.6, 0.605, 0.7, 0.7, 0.6, 0.6], model)  # 0.605 is a gain of less than 0.01
    ticks, outcome = finish(train(model, OPEN, ROWS, judge, loss_of(model)))
    rates = [tick.rate for tick in ticks if isinstance(tick, Step) and tick.score is None and not tick.resumed]
    assert (outcome.best_epoch, outcome.out_of_patience, len(outcome.curve)) == (3, True, 6)
    # Each tick tells the rate of the step that comes: after a warm-up of 0.2 × 5 epochs × 2 steps the whole one, half of it
    # after epoch 2, and half again after 4 and 5.
    assert rates == pytest.approx([1e-3] * 4 + [5e-4] * 4 + [2.5e-4] * 2 + [1.25e-4] * 2)
    kept = [parameter.detach() for parameter in model.parameters()]
    assert all(one.equal(other) for one, other in zip(kept, seen[3], strict=True))
    assert not all(one.equal(other) for one, other in zip(seen[3], seen[4], strict=True))


def test_what_came_is_only_left_for_the_first_gain(model: BertForSequenceClassification) -> None:
    before = [parameter.detach().clone() for parameter in model.parameters()]
    judge, _ = scripted([0.9, 0.92, 0.92, 0.93], model)
    _, outcome = finish(train(model, replace(OPEN, first_gain=0.05), ROWS, judge, loss_of(model)))
    assert (outcome.best_epoch, len(outcome.curve)) == (0, 3)
    assert all(one.equal(other) for one, other in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("times", [1, 2])
def test_a_step_back_is_to_the_last_gain_at_half_of_the_rate_then(model: BertForSequenceClassification, times: int) -> None:
    judge, _ = scripted([0.5, 0.6, 0.6, 0.7], model)  # no gain in epoch 2, so epoch 3 begins at 5e-4 with the weights of 1
    plain, calls = loss_of(model), 0

    def loss(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return plain(batch) * (float("nan") if 4 < calls <= 4 + times else 1.0)

    ticks = train(model, OPEN, ROWS, judge, loss)
    if times == 2:
        with pytest.raises(TrainingDiverged, match=r"also at half the rate \(0\.00025\)"):
            finish(ticks)
        return
    _, outcome = finish(ticks)
    assert "not finite in epoch 3: training went back to the end of epoch 1" in outcome.remarks[0]
    assert "half the rate (0.00025)" in outcome.remarks[0]


def test_stretches_of_several_epochs_wait_as_long(model: BertForSequenceClassification) -> None:
    judge, _ = scripted([0.5, 0.6, 0.5], model)
    ticks, outcome = finish(train(model, replace(OPEN, plateau_epochs=4, patience=12), ROWS, judge, loss_of(model)))
    assert (outcome.best_epoch, len(outcome.curve)) == (1, 13)
    rates = {tick.score: tick.rate for tick in ticks if isinstance(tick, Step)}
    assert min(rate for rate in rates.values() if rate) == pytest.approx(1e-3 / 8)


def test_a_loss_that_falls_is_a_gain_too_but_the_best_score_is_kept(model: BertForSequenceClassification) -> None:
    losses = iter([1.0, 0.9, 0.8, 0.7, 0.695, 0.695, 0.695])  # the last falls are of less than 2 % of the first loss
    scores = iter([0.5, 0.6, 0.58, 0.58, 0.58, 0.58, 0.58])
    seen: list[list[Tensor]] = []

    def judge() -> Validation:
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        return Validation(next(scores), -next(losses))

    ticks, outcome = finish(train(model, OPEN, ROWS, judge, loss_of(model)))
    assert (outcome.best_epoch, outcome.out_of_patience, len(outcome.curve)) == (1, True, 6)
    told = [tick.rate for tick in ticks if isinstance(tick, Step) and tick.score is not None]
    assert told == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4, 2.5e-4, 1.25e-4])
    assert all(one.equal(other) for one, other in zip(model.parameters(), seen[1], strict=True))


def test_a_loss_that_only_falls_back_is_no_gain(model: BertForSequenceClassification) -> None:
    losses = iter([0.3, 0.6, 0.45, 0.4, 0.35])
    _, outcome = finish(train(model, OPEN, ROWS, lambda: Validation(0.5, -next(losses)), loss_of(model)))
    assert (outcome.best_epoch, outcome.out_of_patience, len(outcome.curve)) == (0, True, 3)


def test_a_bound_ends_what_still_gains(model: BertForSequenceClassification) -> None:
    judge, _ = scripted([0.1 * number for number in range(10)], model)
    _, outcome = finish(train(model, replace(OPEN, epochs=4), ROWS, judge, loss_of(model)))
    assert (outcome.best_epoch, outcome.out_of_patience) == (4, False)


def test_the_head_has_a_rate_of_its_own(model: BertForSequenceClassification) -> None:
    rates: dict[int, float] = {}

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rates.update({id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]})

    head = list(model.classifier.parameters())
    plan = TrainingConfig("prepare", 1, 1e-3, 32, 0, head_factor=5.0)
    with register_optimizer_step_pre_hook(note):
        finish(train(model, plan, ROWS, encoded(sentences(8, 3)), loss_of(model), hooks=TrainingHooks(head=head)))
    body = {rates[id(p)] for p in model.bert.parameters()}
    assert len(body) == 1
    assert {rates[id(p)] for p in head} == {5 * body.pop()}
