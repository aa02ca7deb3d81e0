"""Training of a model with running statistics: they follow its weights, are kept with the best, and go on from a save."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compression.evaluation.validate import Validation, validate
from compression.modalities.base import label_loss
from compression.schema.events import Log
from compression.system.interrupts import Pause
from compression.system.progress import Returning, Step
from compression.training.config import TrainingConfig
from compression.training.save import TENSORS, ResumableTraining
from compression.training.trainer import train
from tests.compression.training.conftest import Listener, checkpointer, resumed
from tests.support.tiny_maps import Normalized, maps

TRAIN, VALIDATION = maps(64, 1, varies=True), maps(32, 2)
PLAN = TrainingConfig(name="prepare", epochs=3, rate=1e-2, batch=16, seed=0)


def made(seed: int = 0) -> Normalized:
    torch.manual_seed(seed)
    return Normalized().eval()


def state(model: Normalized) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def run(model: Normalized, plan: TrainingConfig = PLAN, listener: Listener | None = None, **options: Any) -> Any:
    ticks = train(model, plan, TRAIN, options.pop("judge", VALIDATION), label_loss(TRAIN.task, model), **options)
    each = Returning(ticks)
    if listener is None:
        return list(each), each.result
    return listener.hear(event for event in each if not isinstance(event, Step | Log))


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("dropout", [False, True])
def test_statistics_follow_training_so_that_evaluation_knows_the_weights(dropout: bool) -> None:
    model = made()
    before = validate(model, VALIDATION)
    _, outcome = run(model, TrainingConfig("prepare", 6, 1e-2, 16, 0, dropout=dropout))
    assert model.norm.num_batches_tracked == 4 * outcome.best_epoch
    assert outcome.best.score > max(before.score, 0.9)
    assert validate(model, VALIDATION) == outcome.best
    assert not model.training


def test_the_statistics_of_the_best_epoch_stay_with_its_weights() -> None:
    model, seen, scores = made(), [], iter([0.5, 0.9, 0.1, 0.2])

    def judge() -> Validation:
        seen.append(state(model))
        return Validation(next(scores), 0.0)

    _, outcome = run(model, judge=judge)
    assert outcome.best_epoch == 1
    assert not equal(seen[1], seen[2])
    assert equal(state(model), seen[1])


def test_a_loss_that_is_not_a_number_leaves_no_trace_in_the_statistics() -> None:
    model, calls = made(), 0
    plain = label_loss(TRAIN.task, model)

    def loss(batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return plain(batch if calls != 6 else batch.__class__(batch.pixels * float("nan"), batch.labels, batch.rows))

    each = Returning(train(model, PLAN, TRAIN, VALIDATION, loss))
    list(each)
    assert each.result.stepped_back
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_an_interrupted_training_ends_bit_for_bit_alike(tmp_path: Path, listener: Listener) -> None:
    plain, stopped = made(), made()
    run(plain)
    asked = iter([False] * 6 + [True] * 99)
    saver = checkpointer(tmp_path, seconds=None, pause_asked=lambda: next(asked))
    with pytest.raises(Pause):
        run(stopped, listener=listener, resumable=ResumableTraining(saver, "tune", []))
    again = made(seed=7)
    run(again, listener=listener, resumable=ResumableTraining(resumed(tmp_path, listener, 1), "tune", []))
    assert equal(state(again), state(plain))
    saved = load_file(listener.kept / "1" / TENSORS)
    count = len(list(plain.parameters()))
    assert {f"{kind}.{count + i}" for kind in ("weight", "good") for i in range(3)} <= saved.keys()
    assert f"exp_avg.{count}" not in saved
