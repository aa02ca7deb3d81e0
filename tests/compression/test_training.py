"""The loop: it learns, repeats itself, keeps the best epoch and steps back from a loss that is not a number."""

from collections.abc import Generator
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression import numerics, training
from compression.batches import Batch
from compression.errors import TrainingDiverged
from compression.evaluate import Validation, logits, validate
from compression.report import Log, TrainingSaved
from compression.tasks.base import labelled
from compression.training import Outcome, Plan, Tick, train
from tests.compression.conftest import encoded, sentences

TRAIN, VALIDATION = encoded(sentences(320, 1)), encoded(sentences(64, 3))
PLAN = Plan(name="prepare", epochs=4, rate=3e-3, batch=16, seed=0, dropout=True)


def finish(ticks: Generator[Tick | TrainingSaved | Log, None, Outcome]) -> tuple[list[Tick], Outcome]:
    seen = []
    while True:
        try:
            tick = next(ticks)
            assert isinstance(tick, Tick)
            seen.append(tick)
        except StopIteration as end:
            return seen, end.value


def loss_of(model: BertForSequenceClassification) -> Any:
    return labelled(TRAIN.task, model)


def test_it_learns_and_leaves_the_best_epoch(model: BertForSequenceClassification) -> None:
    ticks, outcome = finish(train(model, PLAN, TRAIN, VALIDATION, loss_of(model)))
    scores = [tick.score for tick in ticks if tick.score is not None]
    assert len(scores) == 4
    assert outcome.best.score == max([*scores, outcome.before.score]) > 0.9
    assert validate(model, VALIDATION).score == outcome.best.score
    assert not model.training
    assert [tick.step for tick in ticks if tick.score is None] == list(range(1, 81))
    rates = [tick.rate for tick in ticks if tick.score is None]
    assert max(rates) == pytest.approx(3e-3, rel=0.05)
    assert rates[-1] < 2e-4


def test_the_same_seed_gives_the_same_weights(model: BertForSequenceClassification) -> None:
    start = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for seed in (0, 0, 1):
        model.load_state_dict(start)
        finish(train(model, Plan("prepare", 1, 3e-3, 16, seed, dropout=True), TRAIN, VALIDATION, loss_of(model)))
        results.append(logits(model, VALIDATION))
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])


def test_no_epochs_change_nothing(model: BertForSequenceClassification) -> None:
    before = logits(model, VALIDATION)
    ticks, outcome = finish(train(model, Plan("prepare", 0, 3e-3, 16, 0), TRAIN, VALIDATION, loss_of(model)))
    assert not ticks
    assert outcome.best == outcome.before
    assert logits(model, VALIDATION).equal(before)


def test_a_worse_epoch_is_not_kept(model: BertForSequenceClassification) -> None:
    before = logits(model, VALIDATION)
    verdicts = iter([Validation(0.9, 0.0), Validation(0.5, 0.0), Validation(0.6, 0.0)])
    plan = Plan("prepare", 2, 3e-3, 16, 0)
    _, outcome = finish(train(model, plan, TRAIN, VALIDATION, loss_of(model), validation=lambda: next(verdicts)))
    assert outcome.best_epoch == 0
    assert logits(model, VALIDATION).equal(before)


@pytest.mark.parametrize("times", [1, 2])
def test_a_loss_that_is_not_a_number_steps_back_once(model: BertForSequenceClassification, times: int) -> None:
    plain, calls, bad = loss_of(model), 0, times

    def loss(batch: Batch) -> torch.Tensor:
        nonlocal calls, bad
        calls += 1
        if calls > 25 and bad:
            bad -= 1
            return plain(batch) * float("nan")
        return plain(batch)

    ticks = train(model, PLAN, TRAIN, VALIDATION, loss)
    if times == 2:
        with pytest.raises(TrainingDiverged, match="epoch 2") as caught:
            finish(ticks)
        assert caught.value.param == "recipe.prepare.rate"
        return
    seen, outcome = finish(ticks)
    assert outcome.stepped_back
    assert len([tick for tick in seen if tick.score is not None]) == 4
    assert max(tick.rate for tick in seen[40:] if tick.rate is not None) < 1.6e-3
    assert all(p.isfinite().all() for p in model.parameters())
    assert outcome.best.score > outcome.before.score


def test_l2_follows_the_validation_score(model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *rest: Any) -> Any:
        seen.append(self.param_groups[0]["weight_decay"])
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    verdicts = iter([Validation(score, 0.0) for score in (0.5, 0.8, 0.7, 0.9, 0.9)])
    plan = Plan("prune.recovery", 4, 1e-4, 320, 0, adapt_decay=True)
    finish(train(model, plan, TRAIN, VALIDATION, loss_of(model), validation=lambda: next(verdicts)))
    assert seen == [0.01, 0.01, 0.02, 0.01]


def gradients(model: BertForSequenceClassification, loss: Any, parts: int) -> list[torch.Tensor]:
    """Gradients of one batch of 30 rows, computed in parts."""
    run = training._Run(model, Plan("prepare", 1, 1e-3, 30, 0, parts=parts), [], 1)
    run.begin(Validation(0.0, 0.0))
    assert run.gradients(TRAIN.batch(list(range(30))), loss)
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    run.optimizer.zero_grad()
    return [*found, torch.tensor(run.where.last_loss)]


@pytest.mark.parametrize("parts", [2, 4, 64])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(model: BertForSequenceClassification, parts: int) -> None:
    numerics.insert(model)  # else half precision, where the processor has it, hides how near they are
    sizes: list[tuple[int, int]] = []

    def loss(batch: Batch) -> torch.Tensor:
        sizes.append((len(batch.rows), batch.ids.shape[1]))
        return loss_of(model)(batch)

    whole = gradients(model, loss, 1)
    split = gradients(model, loss, parts)
    assert sum(rows for rows, _ in sizes[1:]) == 30
    assert max(rows for rows, _ in sizes[1:]) == -(-30 // parts)
    assert min(width for _, width in sizes[1:]) < sizes[0][1]
    for ours, theirs in zip(split, whole, strict=True):
        assert torch.allclose(ours, theirs, rtol=2e-2, atol=1e-3 * theirs.abs().max().item() + 1e-7)


def test_training_in_parts_learns_as_well(model: BertForSequenceClassification) -> None:
    plan = Plan(name="prepare", epochs=4, rate=3e-3, batch=16, seed=0, dropout=True, parts=3)
    _, outcome = finish(train(model, plan, TRAIN, VALIDATION, loss_of(model)))
    assert outcome.best.score > 0.9


def test_gradients_that_are_not_finite_are_forgotten(model: BertForSequenceClassification) -> None:
    """The loss is finite and its gradient is not: the next step must not add to what was left."""
    plain, calls = loss_of(model), 0

    def loss(batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        found = plain(batch)
        return found + (found - found.detach()).abs().sqrt() if calls == 5 else found

    _, outcome = finish(train(model, PLAN, TRAIN, VALIDATION, loss))
    assert outcome.stepped_back
    assert outcome.best.score > 0.9
