"""Training that was stopped and taken up ends with the very weights of one that was not, in every phase."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from compression.engine.stage_clock import StageClock
from compression.modalities.base import label_loss
from compression.modalities.text.batches import Batch
from compression.planning.memory import saved_bytes
from compression.quantization.fake_quantize import simulation_of
from compression.schema.events import Log, Progress
from compression.schema.recipe.distill import Distill, Teachers, Weights
from compression.schema.recipe.prune import Prune, Recovery
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.stages import Stage
from compression.system.progress import Step
from compression.training.config import TrainingConfig
from compression.training.save import TrainingCheckpointer, read_training
from compression.training.trainer import train
from tests.compression.training import conftest
from tests.compression.training.conftest import Listener, checkpointer, done, go_on, resumed, same, state_before, weights
from tests.support.stage_runs import distill, prepare
from tests.support.tiny_bert import encoded, sentences

RANDOM_STATE_AND_NAMES = 50_000
"""Bytes of a save that do not hang on the model's size."""


def check(stage: Stage, tmp_path: Path, listener: Listener, device: str = "cpu") -> None:
    plain = done(stage, device)
    saved = done(stage, device, hear=listener.hear, checkpointer=checkpointer(tmp_path))
    assert same(weights(saved), weights(plain)), "saving changed the training"
    last = len(listener.saves)
    if stage == "baseline":  # the others train more than the model
        largest = max(file.size for save in listener.saves for file in save.files)
        held = saved_bytes("adamw", sum(weight.numel() for weight in weights(saved)))
        assert 0.75 * held < largest < held + RANDOM_STATE_AND_NAMES, "not as forecast"
    assert last > 2 * conftest.STEPS_AN_EPOCH
    assert [save.step for save in listener.saves] == [*range(1, last), last - 1]
    # After the first step, in mid-epoch, at an epoch's last step, in the last epoch, and after the end.
    for number in (1, 7, 2 * conftest.STEPS_AN_EPOCH, last - 2, last):
        state, events = go_on(stage, resumed(tmp_path, listener, number), device)
        assert same(weights(state), weights(plain)), f"save {number} of {stage}"
        assert (state.notes, state.result.pruning) == (plain.notes, plain.result.pruning)
        said = [event.message for event in events if isinstance(event, Log)]
        (log,) = [message for message in said if not message.startswith("Step ")]  # those are distillation's, epoch by epoch
        if number == last:
            assert "had ended" in log
            assert not [event for event in events if isinstance(event, Progress) and event.loss is not None]
        else:
            assert log == f"Training goes on from step {number} of {listener.saves[0].total}."


@pytest.mark.parametrize("stage", conftest.WORK)
def test_what_is_taken_up_ends_bit_for_bit_alike(stage: Stage, tmp_path: Path, listener: Listener) -> None:
    check(stage, tmp_path, listener)


def test_static_ranges_and_the_order_of_the_ramp_come_from_what_was_saved(tmp_path: Path, listener: Listener) -> None:
    static = Quantize(scheme="static-int8", calibration_rows=32, qat=Qat(full=0, ramp=2, quantized=1, rate=1e-3))
    recipe = conftest.RECIPE.model_copy(update={"quantize": static})
    saved = done("quantized", recipe=recipe, hear=listener.hear, checkpointer=checkpointer(tmp_path))
    given = resumed(tmp_path, listener, 7)  # of 15: in the ramp, in mid-epoch
    again, _ = go_on("quantized", given, recipe=recipe)
    assert same(weights(again), weights(saved))
    assert simulation_of(again.model) == simulation_of(saved.model)
    assert again.notes == saved.notes


def test_a_cut_in_steps_goes_on_from_its_own_scores(tmp_path: Path, listener: Listener) -> None:
    """The first step's training is not done again, and the second cut chooses by the scores that the save kept."""
    ratio = {"hidden": 0.5, "ffn": 0.5, "layers": 0.5}  # so heads stay, and become narrower twice
    steps = {"importance": "taylor", "steps": 2, "recovery": Recovery(epochs=2)}
    settings = Prune(ratio=ratio, axes=tuple(ratio), multiple=8, calibration_rows=64, **steps)
    static = Quantize(scheme="static-int8", calibration_rows=32)
    recipe = Recipe(prepare=Prepare(epochs=1), quantize=static, prune=settings, train=Train(batch=64, max_length=32))
    plain = done("pruned", recipe=recipe)
    assert (plain.model.config.hidden_size, plain.model.config.num_attention_heads) == (16, 4)
    done("pruned", recipe=recipe, hear=listener.hear, checkpointer=checkpointer(tmp_path))
    last = conftest.STEPS_AN_EPOCH + 1  # the end of a training is saved too
    assert [save.phase for save in listener.saves] == [f"recover, step {step} of 2" for step in (1, 2) for _ in range(last)]
    for number in (2, last, last + 2):
        state, events = go_on("pruned", resumed(tmp_path, listener, number), recipe=recipe)
        assert same(weights(state), weights(plain)), f"save {number}"
        assert (state.notes, state.result.pruning) == (plain.notes, plain.result.pruning)
        again = {event.phase for event in events if isinstance(event, Progress) and event.loss is not None}
        assert ("recover, step 1 of 2" in again) == (number < last)


def test_accumulation_and_the_jobs_budget_go_on_bit_for_bit(tmp_path: Path, listener: Listener) -> None:
    """Batches of 16 in halves, three to a step: seven steps an epoch, and the budget ends it in the midst of the second."""
    recipe = conftest.RECIPE.model_copy(update={"train": Train(batch=16, max_length=32, accumulate=3, max_steps=10)})
    plain = done("baseline", recipe=recipe, parts=2)
    assert "stopped at step 10 of 21" in plain.notes[-1]
    done("baseline", recipe=recipe, parts=2, hear=listener.hear, checkpointer=checkpointer(tmp_path))
    assert [save.step for save in listener.saves] == [*range(1, 11), 10]
    for number in (1, 7, 9, 10, 11):
        state = done("baseline", recipe=recipe, parts=2, checkpointer=resumed(tmp_path, listener, number))
        assert same(weights(state), weights(plain)), f"save {number}"
        assert (state.notes, state.budget.spent.steps) == (plain.notes, 10)


def test_what_goes_on_after_memory_ran_out_takes_smaller_parts(tmp_path: Path, listener: Listener) -> None:
    """The save is of whole batches; the worker asks its next attempt for quarters."""
    done("baseline", hear=listener.hear, checkpointer=checkpointer(tmp_path))
    state, seen = state_before("baseline"), list[int]()

    def count(_: Any, __: Any, named: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            seen.append(len(named["input_ids"]))

    state.model.register_forward_pre_hook(count, with_kwargs=True)
    state.checkpointer, state.parts = resumed(tmp_path, listener, 7), 4
    list(prepare(state))
    assert seen
    assert max(seen) == conftest.RECIPE.train.batch // 4


def test_minutes_count_across_attempts_only_as_far_as_they_were_saved(tmp_path: Path, listener: Listener) -> None:
    recipe = conftest.RECIPE.model_copy(update={"train": Train(batch=64, max_length=32, max_minutes=1.0)})
    state = state_before("baseline", recipe=recipe)
    state.checkpointer = checkpointer(tmp_path)
    state.budget.clock = iter(range(0, 10_000, 5)).__next__  # five seconds a step, and five for each validation
    listener.hear(prepare(state))
    assert "stopped at step 10 of 15" in state.notes[-1]  # 12 times five seconds, two of them for validations
    again = state_before("baseline", recipe=recipe)
    again.checkpointer = resumed(tmp_path, listener, 4)
    again.budget.clock = iter(range(0, 10_000, 10)).__next__  # the new attempt runs at half the speed
    list(prepare(again))
    # 20 of 60 seconds were saved; what came after the fourth step died with its attempt.
    assert "stopped at step 7 of 15" in again.notes[-1]


def test_the_time_of_a_stage_counts_across_attempts_as_far_as_it_was_saved(tmp_path: Path, listener: Listener) -> None:
    def clock() -> StageClock:
        made = StageClock(now=iter(range(1000, 100_000, 5)).__next__)  # five seconds a look
        made.begin(100.0)
        return made

    done("baseline", hear=listener.hear, checkpointer=checkpointer(tmp_path), clock=clock())
    saved = read_training(listener.kept / "4", "same work").seconds
    assert saved > 100
    again = done("baseline", checkpointer=resumed(tmp_path, listener, 4), clock=clock())
    assert again.clock.carried == saved - 100
    assert again.clock.seconds > saved


@pytest.mark.parametrize("weighting", ["uncertainty", "linear"])
def test_the_last_term_weights_are_told_though_an_earlier_is_kept(weighting: Any, tmp_path: Path, listener: Listener) -> None:
    """The model before is the best; also a new attempt that has no step left, or nothing at all, knows how far weights went."""
    to = Weights(hard=0.0, hidden=4.0) if weighting == "linear" else None
    recipe = Recipe(
        prepare=Prepare(epochs=2, rate=3e-3),
        prune=Prune(ratio={"ffn": 0.1}, multiple=8, calibration_rows=64),
        distill=Distill(epochs=3, rate=0.05, hidden=1.0, weighting=weighting, to=to, patience=1),
        train=Train(batch=64, max_length=32),
    )
    whole = state_before("distilled", recipe=recipe)
    whole.checkpointer = checkpointer(tmp_path)
    seen = listener.hear(distill(whole))
    assert any("(best of epochs 0 to 3: 0)" in note for note in whole.notes)
    (weights_told,) = [note for note in whole.notes if note.startswith("Weights")]
    (logged,) = [event.message for event in seen if isinstance(event, Log) and event.message.startswith("Step ")]
    after = dict(re.findall(r"(\w+) \S+ × ([^,\s]*[0-9])", logged))
    assert dict(re.findall(r"(\w+) \S+ → ([^,\s]*[0-9])", weights_told)) == after
    assert len(after) == 3
    assert 1.001 < float(after["hidden"]) < 4  # how far it goes depends on the processor
    assert [save.step for save in listener.saves] == [1, 2, 3, 4, 5, 5]
    for number in (3, 5, 6):
        state, _ = go_on("distilled", resumed(tmp_path, listener, number), recipe=recipe)
        assert same(weights(state), weights(whole))
        assert state.notes == whole.notes, f"save {number}"


def test_what_is_learned_beside_the_student_goes_on_too(tmp_path: Path, listener: Listener) -> None:
    """Projections, learned weights and the rounded teacher are those of the attempt before."""
    settings = Distill(epochs=2, rate=1e-3, weighting="uncertainty", teachers=Teachers(precision="int8"))
    recipe = conftest.RECIPE.model_copy(update={"distill": settings})
    whole = done("distilled", recipe=recipe, hear=listener.hear, checkpointer=checkpointer(tmp_path))
    assert any("8 bits" in note for note in whole.notes)
    for number in (3, conftest.STEPS_AN_EPOCH + 2):
        again, _ = go_on("distilled", resumed(tmp_path, listener, number), recipe=recipe)
        assert same(weights(again), weights(whole)), f"save {number}"
        assert again.notes == whole.notes


def test_a_training_that_stepped_back_goes_on_so(tmp_path: Path, listener: Listener) -> None:
    rows, validation = encoded(sentences(320, 1)), encoded(sentences(64, 3))
    plan = TrainingConfig("prepare", 3, 3e-3, 64, seed=0, dropout=True)
    state = state_before("baseline")
    calls = 0

    def ticks(model: BertForSequenceClassification, given: TrainingCheckpointer, bad: int) -> Iterator[Any]:
        def loss(batch: Batch) -> Tensor:
            nonlocal calls
            calls += 1
            found = label_loss(rows.task, model)(batch)
            return found * float("nan") if calls == bad else found

        state.checkpointer = given
        return train(model, plan, rows, validation, loss, resumable=state.resumable("tune"))

    listener.hear(event for event in ticks(state.model, checkpointer(tmp_path), bad=8) if not isinstance(event, Step))
    expected = weights(state)
    assert [save.step for save in listener.saves] == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15]
    state = state_before("baseline")
    list(ticks(state.model, resumed(tmp_path, listener, 9), bad=0))
    assert same(weights(state), expected)
    # At the second time it gives up, also where the first was in another attempt.
    state, calls = state_before("baseline"), 0
    with pytest.raises(Exception, match="also at half the rate"):
        list(ticks(state.model, resumed(tmp_path, listener, 9), bad=3))
