"""The loop: it learns, repeats itself, keeps the best epoch and steps back from a loss that is not a number."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.evaluation.validate import Validation, logits, validate
from compression.modalities.base import label_loss
from compression.modalities.text.batches import Batch
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.quantization.precision import gradient_dtype
from compression.schema.errors import TrainingDiverged, UnsupportedPrecision
from compression.schema.events import Log, TrainingSaved
from compression.schema.recipe.recipe import Recipe
from compression.system.progress import Returning, Step
from compression.training.budget import Budget
from compression.training.config import TrainingConfig, TrainingOutcome, check_precision
from compression.training.trainer import train
from tests.support.tiny_bert import encoded, sentences
from tests.support.toy_tasks import opened
from tests.support.trainings import run_of

TRAIN, VALIDATION = encoded(sentences(320, 1)), encoded(sentences(64, 3))
PLAN = TrainingConfig(name="prepare", epochs=4, rate=3e-3, batch=16, seed=0, dropout=True)


Training = Generator[Step | TrainingSaved | Log, None, TrainingOutcome]


def heard(ticks: Training) -> tuple[list[Step], list[Log], TrainingOutcome]:
    events = list(each := Returning(ticks))
    said = [event for event in events if isinstance(event, Log)]
    return [event for event in events if not isinstance(event, Log)], said, each.result


def finish(ticks: Training) -> tuple[list[Step], TrainingOutcome]:
    seen, _, outcome = heard(ticks)
    return seen, outcome


def loss_of(model: BertForSequenceClassification) -> Any:
    return label_loss(TRAIN.task, model)


def scored(*scores: float) -> Any:
    verdicts = iter([Validation(score, 0.0) for score in scores])
    return lambda: next(verdicts)


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
        finish(train(model, TrainingConfig("prepare", 1, 3e-3, 16, seed, dropout=True), TRAIN, VALIDATION, loss_of(model)))
        results.append(logits(model, VALIDATION))
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])


def test_no_epochs_change_nothing_and_a_worse_one_is_not_kept(model: BertForSequenceClassification) -> None:
    before = logits(model, VALIDATION)
    ticks, outcome = finish(train(model, TrainingConfig("prepare", 0, 3e-3, 16, 0), TRAIN, VALIDATION, loss_of(model)))
    assert not ticks
    assert outcome.best == outcome.before
    assert logits(model, VALIDATION).equal(before)
    plan = TrainingConfig("prepare", 2, 3e-3, 16, 0)
    _, outcome = finish(train(model, plan, TRAIN, scored(0.9, 0.5, 0.6), loss_of(model)))
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
        with pytest.raises(TrainingDiverged, match="epoch 2", check=lambda error: error.param == "recipe.prepare.rate"):
            finish(ticks)
        return
    seen, said, outcome = heard(ticks)
    assert outcome.stepped_back
    assert [(log.level, log.message) for log in said] == [("warning", outcome.remarks[0])]
    assert "not finite in epoch 2" in outcome.remarks[0]
    assert "half the rate (0.0015)" in outcome.remarks[0]
    assert len([tick for tick in seen if tick.score is not None]) == 4
    assert max(tick.rate for tick in seen[40:] if tick.rate is not None) < 1.6e-3
    assert all(p.isfinite().all() for p in model.parameters())
    assert outcome.best.score > outcome.before.score


def test_l2_follows_the_validation_score(model: BertForSequenceClassification) -> None:
    seen: list[float] = []
    plan = TrainingConfig("prune.recovery", 4, 1e-4, 320, 0, adapt_decay=True)
    with register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["weight_decay"])):
        finish(train(model, plan, TRAIN, scored(0.5, 0.8, 0.7, 0.9, 0.9), loss_of(model)))
    assert seen == [0.01, 0.01, 0.02, 0.01]


BATCHES = [TRAIN.batch(list(range(30)))]


def gradients(model: PreTrainedModel, loss: Any, parts: int, batches: list[Batch] = BATCHES, **plan: Any) -> list[torch.Tensor]:
    """Gradients of batches of 30 rows together, computed in parts, and their loss."""
    run = run_of(model, TrainingConfig("prepare", 1, 1e-3, 30, 0, parts=parts, **plan), loss)
    run.begin(Validation(0.0, 0.0))
    assert run.gradients(batches)
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    run.optimizer.zero_grad()
    return [*found, torch.tensor(run.where.last_loss)]


def assert_near(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=2e-2, atol=1e-3 * theirs.abs().max().item() + 1e-7)


@pytest.mark.parametrize("parts", [2, 4, 64])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(model: BertForSequenceClassification, parts: int) -> None:
    insert_fake_quantization(model)  # else half precision, where the processor has it, hides how near they are
    sizes: list[tuple[int, int]] = []

    def loss(batch: Batch) -> torch.Tensor:
        sizes.append((len(batch.rows), batch.ids.shape[1]))
        return loss_of(model)(batch)

    whole = gradients(model, loss, 1)
    split = gradients(model, loss, parts)
    assert sum(rows for rows, _ in sizes[1:]) == 30
    assert max(rows for rows, _ in sizes[1:]) == -(-30 // parts)
    assert min(width for _, width in sizes[1:]) < sizes[0][1]
    assert_near(split, whole)


def test_training_in_parts_learns_as_well(model: BertForSequenceClassification) -> None:
    plan = TrainingConfig(name="prepare", epochs=4, rate=3e-3, batch=16, seed=0, dropout=True, parts=3)
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


def test_accumulated_batches_have_the_gradients_of_one_large_one(model: BertForSequenceClassification) -> None:
    insert_fake_quantization(model)  # else half precision, where the processor has it, hides how near they are
    whole = gradients(model, loss_of(model), 1)
    batches = [TRAIN.batch(list(range(start, min(start + 12, 30)))) for start in (0, 12, 24)]
    for parts in (1, 2):
        assert_near(gradients(model, loss_of(model), parts, batches, accumulate=3), whole)


def test_a_tagged_word_counts_the_same_in_whatever_batch_it_stands(tmp_path: Path, encoder: Path) -> None:
    _, _, state = opened("token-classification", tmp_path, encoder, Recipe())
    by_length = sorted(range(len(state.rows["train"])), key=lambda row: len(state.rows["train"].tokens[row]))
    rows = state.rows["train"].at(by_length[:20] + by_length[-10:])  # 4 words against 8
    insert_fake_quantization(state.model)  # else half precision, where the processor has it, hides how near they are
    loss = label_loss(state.task, state.model)
    whole = rows.batch(list(range(30)))
    assert whole.weight == int((whole.labels != -100).sum())
    wanted = gradients(state.model, loss, 1, [whole])
    for batches, parts in (([whole], 3), ([rows.batch(list(range(20))), rows.batch(list(range(20, 30)))], 1)):
        assert_near(gradients(state.model, loss, parts, batches), wanted)


def test_accumulation_takes_fewer_steps_and_repeats_itself(model: BertForSequenceClassification) -> None:
    start = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for seed in (0, 0, 1):
        model.load_state_dict(start)
        plan = TrainingConfig("prepare", 2, 3e-3, 16, seed, dropout=True, accumulate=3, parts=2)
        ticks, _ = finish(train(model, plan, TRAIN, VALIDATION, loss_of(model)))
        steps = [tick for tick in ticks if tick.score is None]
        assert [tick.step for tick in steps] == list(range(1, 15))  # 20 batches: seven steps an epoch, the last of two batches
        assert ({tick.total for tick in steps}, steps[-1].rate) == ({14}, 0)
        results.append(logits(model, VALIDATION))
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])


def test_the_warm_up_is_a_share_of_the_steps_and_l2_shrinks_weights(model: BertForSequenceClassification) -> None:
    ticks, _ = finish(train(model, TrainingConfig("prepare", 1, 1e-3, 16, 0, warmup=0.5), TRAIN, VALIDATION, loss_of(model)))
    rates = [tick.rate for tick in ticks if tick.score is None and tick.rate is not None]
    assert rates.index(max(rates)) == 8  # the tenth step's, told after the ninth
    assert rates == pytest.approx([*(1e-4 * step for step in range(2, 11)), *(1e-4 * left for left in range(10, -1, -1))])
    weight, norms = model.bert.encoder.layer[0].intermediate.dense.weight, []
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for decay in (0.0, 1.0):
        model.load_state_dict(start)
        finish(train(model, TrainingConfig("prepare", 1, 1e-2, 16, 0, decay=decay), TRAIN, VALIDATION, loss_of(model)))
        norms.append(weight.norm().item())
    assert norms[1] < 0.97 * norms[0]


def test_patience_ends_training_and_says_so(model: BertForSequenceClassification) -> None:
    plan = TrainingConfig("distill", 9, 1e-3, 320, 0, patience=2)
    ticks, said, outcome = heard(train(model, plan, TRAIN, scored(0.5, 0.6, 0.7, 0.7, 0.65), loss_of(model)))
    assert [tick.score for tick in ticks if tick.score is not None] == [0.6, 0.7, 0.7, 0.65]
    assert outcome.best_epoch == 2
    assert [log.message for log in said] == list(outcome.remarks)
    assert "distill stopped early: 2 epochs" in outcome.remarks[0]


def test_patience_does_not_count_the_epochs_before_its_time(model: BertForSequenceClassification) -> None:
    plan = TrainingConfig("prune.recovery", 9, 1e-3, 320, 0, patience=1, patience_from=3)
    ticks, outcome = finish(train(model, plan, TRAIN, scored(0.5, 0.4, 0.4, 0.4, 0.6, 0.5), loss_of(model)))
    assert len([tick for tick in ticks if tick.score is not None]) == 5
    assert outcome.best_epoch == 4


def test_the_jobs_steps_are_shared_by_its_trainings(model: BertForSequenceClassification) -> None:
    budget = Budget(max_steps=50)
    plan = TrainingConfig("prepare", 1, 3e-3, 16, 0)
    _, outcome = finish(train(model, plan, TRAIN, VALIDATION, loss_of(model), budget=budget))
    assert (budget.spent.steps, outcome.remarks) == (20, ())
    longer = TrainingConfig("distill", 4, 3e-3, 16, 0)
    ticks, said, outcome = heard(train(model, longer, TRAIN, VALIDATION, loss_of(model), budget=budget))
    steps = [tick for tick in ticks if tick.score is None]
    assert [tick.step for tick in steps] == list(range(1, 31))
    assert {tick.total for tick in ticks} == {30}
    assert steps[-1].rate == 0  # the rate falls to nothing at the last step that there is
    assert ticks[-1].score is not None  # half an epoch is judged like a whole one
    assert len([tick for tick in ticks if tick.score is not None]) == 2
    assert "stopped at step 30 of 80: recipe.train.max_steps (50)" in outcome.remarks[0]
    assert [log.message for log in said] == list(outcome.remarks)
    before = logits(model, VALIDATION)
    ticks, _, outcome = heard(train(model, longer, TRAIN, VALIDATION, loss_of(model), budget=budget))
    assert not ticks
    assert outcome.remarks == ("distill was not trained: recipe.train.max_steps (50) was reached before it.",)
    assert logits(model, VALIDATION).equal(before)


def test_minutes_end_training_at_the_step(model: BertForSequenceClassification) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 6.0
        return now

    budget = Budget(max_minutes=0.5, clock=clock)  # each look at this clock costs six seconds
    ticks, outcome = finish(train(model, PLAN, TRAIN, VALIDATION, loss_of(model), budget=budget))
    assert [tick.step for tick in ticks if tick.score is None] == [1, 2, 3, 4, 5]
    assert "stopped at step 5 of 80: recipe.train.max_minutes (0.5)" in outcome.remarks[0]
    assert validate(model, VALIDATION).score == outcome.best.score


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_precision_of_products(model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    monkeypatch.setattr("compression.quantization.precision.has_bfloat16", lambda device: True)
    seen: set[torch.dtype] = set()
    linear = model.bert.encoder.layer[0].output.dense
    linear.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    plan = TrainingConfig("prepare", 1, 1e-3, 320, 0, precision=precision)
    finish(train(model, plan, TRAIN, scored(0, 1), loss_of(model)))
    assert seen == {torch.float32 if precision == "float32" else torch.bfloat16}

    insert_fake_quantization(model)  # simulated integers stay exact; their gradients are rounded as the recipe allows
    run = run_of(model, TrainingConfig("prepare", 1, 1e-3, 30, 0, precision=precision), loss_of(model))
    run.begin(Validation(0.0, 0.0))
    seen.clear()
    assert run.gradients([TRAIN.batch(list(range(30)))])
    assert seen == {torch.float32}
    rounded = linear.weight.grad.clone()
    run.optimizer.zero_grad()
    exact = gradients(model, loss_of(model), 1, precision="float32")
    theirs = next(g for g, p in zip(exact, model.parameters(), strict=False) if p is linear.weight)
    assert rounded.equal(theirs) == (precision == "float32")


def test_a_device_without_bfloat16_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("compression.training.config", "compression.quantization.precision"):
        monkeypatch.setattr(f"{place}.has_bfloat16", lambda device: False)
    for precision in ("auto", "float32"):
        check_precision(precision, torch.device("cpu"))
    with pytest.raises(UnsupportedPrecision, check=lambda error: error.param == "recipe.train.precision"):
        check_precision("bfloat16", torch.device("cpu"))
    assert gradient_dtype(torch.device("cpu")) == torch.float32
