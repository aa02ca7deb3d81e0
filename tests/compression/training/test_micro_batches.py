"""Micro-batches: as many rows at a time as memory takes, and the gradients of the whole batch however many these are.

Memory is a double: a hook before the model's forward raises what torch raises, for more rows than a bound.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from compression.evaluation.validate import Validation
from compression.modalities.base import label_loss
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.errors import OutOfMemory
from compression.schema.events import Log
from compression.system.failures import typed
from compression.system.progress import Returning, Step
from compression.training.config import TrainingConfig, TrainingOutcome
from compression.training.micro_batches import longest_batch
from compression.training.trainer import train
from compression.training.work import Alone
from tests.support.second_device import second_device
from tests.support.tiny_bert import encoded, sentences
from tests.support.trainings import run_of

TRAIN, VALIDATION = encoded(sentences(96, 1)), encoded(sentences(32, 3))
PLAN = TrainingConfig(name="prepare", epochs=2, rate=3e-3, batch=16, seed=0, precision="float32")
OF_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
OF_THE_HOST = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes.")


@contextmanager
def memory_for(model: nn.Module, rows: Callable[[], int], failure: BaseException, seen: list[int]) -> Iterator[None]:
    """Give a model's training memory for so many rows at a time; `seen` gets the rows of each forward that was tried."""

    def check(module: nn.Module, given: Any, named: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            seen.append(len(named["input_ids"]))
            if seen[-1] > rows():
                raise failure

    hook = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def trained(
    model: BertForSequenceClassification, plan: TrainingConfig = PLAN
) -> tuple[list[torch.Tensor], TrainingOutcome, list[str]]:
    """Train from the model's weights; return the last weights' copies, the outcome and what the log says of it."""
    events = list(each := Returning(train(model, plan, TRAIN, VALIDATION, label_loss(TRAIN.task, model))))
    logs = [event.message for event in events if isinstance(event, Log)]
    assert [event.step for event in events if isinstance(event, Step) and event.score is None][-1] == 12
    return [value.detach().to("cpu", copy=True) for value in model.parameters()], each.result, logs


def near(ours: list[torch.Tensor], theirs: list[torch.Tensor], by: float) -> bool:
    return all(torch.allclose(one, other, atol=by) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("failure", [OF_A_GPU, OF_THE_HOST, MemoryError()], ids=["card", "host", "python"])
def test_a_step_without_memory_begins_anew_in_halves_and_training_ends_alike(
    model: BertForSequenceClassification, failure: BaseException
) -> None:
    start, seen = {name: value.clone() for name, value in model.state_dict().items()}, list[int]()
    whole, _, logs = trained(model)
    assert not logs
    model.load_state_dict(start)
    room = 16

    def rows() -> int:
        nonlocal room
        room = 5 if len(seen) > 4 else room  # memory becomes short in the fifth step
        return room

    with memory_for(model, rows, failure, seen):
        found, outcome, logs = trained(model)
    assert seen == [16] * 5 + [8] + [4] * (4 * 8)
    assert near(found, whole, 2e-5)
    (remark,) = outcome.remarks
    assert "in step 5 of prepare" in remark
    assert "micro-batches of 4" in remark
    assert logs == [remark]


def test_gradients_are_those_of_the_whole_batch_also_of_uneven_parts(model: BertForSequenceClassification) -> None:
    insert_fake_quantization(model)  # else half precision, where the processor has it, hides how near they are
    batch = TRAIN.batch(list(range(30)))

    def gradients(room: int) -> list[torch.Tensor]:
        run = run_of(model, replace(PLAN, batch=30), label_loss(TRAIN.task, model))
        run.begin(Validation(0.0, 0.0))
        with memory_for(model, lambda: room, OF_A_GPU, []):
            assert run.gradients([batch])
        assert run.where.parts == (1 if room == 30 else 4)
        return [value.grad.clone() for value in model.parameters() if value.grad is not None]

    whole, parts = gradients(30), gradients(13)  # 8, 8, 8 and 6 rows
    assert near(parts, whole, 1e-6)


def test_a_row_that_does_not_fit_and_other_failures_end_training(model: BertForSequenceClassification) -> None:
    seen: list[int] = []
    with memory_for(model, lambda: 0, OF_A_GPU, seen), pytest.raises(torch.OutOfMemoryError) as raised:
        trained(model)
    assert isinstance(typed(raised.value), OutOfMemory)
    assert seen == [16, 8, 4, 2, 1]
    seen.clear()
    with memory_for(model, lambda: 0, RuntimeError("shapes differ"), seen), pytest.raises(RuntimeError, match="shapes differ"):
        trained(model)
    assert seen == [16]


def test_a_recipes_number_of_rows_is_kept_to(model: BertForSequenceClassification) -> None:
    seen: list[int] = []
    with memory_for(model, lambda: 16, OF_A_GPU, seen):
        trained(model, replace(PLAN, micro_batch=6))
    assert set(seen) == {6, 4}  # of 16 rows


def test_a_device_is_tried_with_its_longest_rows_and_nothing_of_the_trial_stays(model: BertForSequenceClassification) -> None:
    plan = replace(PLAN, dropout=True)
    start, seen = {name: value.clone() for name, value in model.state_dict().items()}, list[int]()
    expected, _, _ = trained(model, replace(plan, micro_batch=4))
    model.load_state_dict(start)
    with second_device() as device, memory_for(model.to(device), lambda: 6, OF_A_GPU, seen):
        found, outcome, logs = trained(model, plan)
    assert seen == [16, 8, 4, 4, 4, 4] + [4] * (4 * 12)
    assert near(found, expected, 1e-5), "the trial drew random numbers"
    (remark,) = outcome.remarks
    assert "micro-batches of 4: more did not fit" in remark
    assert len(logs) == 1


def test_the_trial_has_room_for_the_moments_and_for_gradients_that_stay(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, count, empty = list[int](), sum(value.numel() for value in model.parameters()), torch.empty
    seen: list[int] = []

    def counted(*size: Any, **options: Any) -> torch.Tensor:
        if options.get("dtype") is torch.uint8:
            asked.append(size[0])
        return empty(*size, **options)

    with second_device() as device:
        model.to(device)
        monkeypatch.setattr(torch, "empty", counted)
        with memory_for(model, lambda: 16, OF_A_GPU, seen):
            run = run_of(model, replace(PLAN, accumulate=4), label_loss(TRAIN.task, model))
            run.begin(Validation(0.0, 0.0))
            list(run.micro_batches.choose(run.where, TRAIN, run._accumulate))
        assert all(value.grad is None for value in model.parameters())
    assert sum(asked) == 8 * count
    assert seen == [16, 16]  # the second beside the gradients of the first
    assert run.where.parts == 1


@pytest.mark.parametrize(("asked", "parts"), [("auto", 1), (6, 3)])
def test_who_may_not_begin_a_step_anew_tries_nothing_and_fails_at_once(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch, asked: Any, parts: int
) -> None:
    """As one of several processes, which the others wait for."""
    monkeypatch.setattr(Alone, "begins_anew", False)
    seen: list[int] = []
    with second_device() as device, memory_for(model.to(device), lambda: 0, OF_A_GPU, seen):
        run = run_of(model, replace(PLAN, micro_batch=asked), label_loss(TRAIN.task, model))
        run.begin(Validation(0.0, 0.0))
        assert not list(run.micro_batches.choose(run.where, TRAIN, run._accumulate))
        assert (seen, run.where.parts) == ([], parts)
        with pytest.raises(torch.OutOfMemoryError):
            run.gradients([TRAIN.batch(list(range(16)))])
    assert len(seen) == 1
    assert run.where.parts == parts


def test_the_longest_rows_are_the_trial() -> None:
    batch = longest_batch(TRAIN, 8)
    assert len(batch.rows) == 8
    assert int(batch.mask.sum(dim=1).min()) >= sorted(TRAIN.lengths)[-8]
