"""One save at a time, at once where a pause is asked for; and one that is damaged or not of this work costs time only."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compression.evaluation.validate import Validation
from compression.modalities.base import label_loss
from compression.schema.events import Event, Log, Progress, TrainingSaved
from compression.system.interrupts import Pause
from compression.system.progress import Step
from compression.system.sealed_folder import UnusableCheckpoint, unseal
from compression.training import save
from compression.training.config import TrainingConfig
from compression.training.save import read_training
from compression.training.trainer import train
from tests.compression.training import conftest
from tests.compression.training.conftest import Listener, checkpointer, done, go_on, resumed, same, state_before, weights
from tests.support.stage_runs import prepare, prune


def test_nothing_is_saved_until_the_save_before_was_taken(tmp_path: Path) -> None:
    state = state_before("baseline")
    state.checkpointer = checkpointer(tmp_path)
    steps: list[int] = []
    for event in prepare(state):
        if isinstance(event, TrainingSaved):
            steps.append(event.step)
            assert [path.name for path in (tmp_path / "out").iterdir()] == [event.folder] == [f"training-{len(steps)}"]
        if isinstance(event, Progress) and event.score is not None and event.step == 2 * conftest.STEPS_AN_EPOCH:
            shutil.rmtree(tmp_path / "out" / "training-1")
        if len(steps) == 2:
            break
    assert steps == [1, 2 * conftest.STEPS_AN_EPOCH + 1]


@pytest.mark.parametrize("slow", ["copy", "write", "gather"])
def test_saves_hold_training_for_three_hundredths_of_its_time_at_most(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever takes 10 s of it: a card's copy, the write of what trains on the host, or what several processes gather."""
    now = [0.0]

    def take(what: str) -> None:
        now[0] += 10 * (what == slow)

    monkeypatch.setattr(save, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(torch.Tensor):
        """Is a card's if copies are slow."""

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("meta" if slow == "copy" else "cpu")

        def cpu(self) -> torch.Tensor:
            take("copy")
            return torch.zeros(1)

    class Training:
        gathers = slow == "gather"

        def tensors(self) -> dict[str, torch.Tensor]:
            take("gather")
            return {"weight": torch.zeros(1).as_subclass(Slow)}

    def write(place: Path, *_: Any) -> SimpleNamespace:
        take("write")
        return SimpleNamespace(folder=place.name)

    facts: Any = SimpleNamespace(model_copy=lambda **_: None)
    training: Any = Training()
    monkeypatch.setattr(save, "_write", write)
    for asked, interval in ((120.0, 10 / 0.03 - 10), (1000.0, 1000.0), (0.0, 0.0)):
        saver = checkpointer(tmp_path, seconds=asked)
        list(saver.save(facts, training, {}, at_once=False))
        list(saver.written(wait=True))
        ended = now[0]
        for after, due in ((interval - 1, not asked), (interval + 1e-6, True)):
            now[0] = ended + max(after, 0.0)
            assert saver.is_due() == due


def test_a_pause_saves_at_once_and_stops(tmp_path: Path, listener: Listener) -> None:
    answers = iter([False] * (conftest.STEPS_AN_EPOCH + 6) + [True] * 99)  # first, the teacher is asked in batches as large
    pausing = checkpointer(tmp_path, seconds=None, pause_asked=lambda: next(answers))
    with pytest.raises(Pause):
        done("distilled", hear=listener.hear, checkpointer=pausing)
    assert [save.step for save in listener.saves] == [7]
    state, _ = go_on("distilled", resumed(tmp_path, listener, 1))
    assert same(weights(state), weights(done("distilled")))


def test_a_pause_is_heard_between_layers_that_are_solved(tmp_path: Path) -> None:
    state = state_before("pruned")
    answers = iter([False] * (state.model.config.num_hidden_layers - 1) + [True])
    state.checkpointer = checkpointer(tmp_path, pause_asked=lambda: next(answers))
    with pytest.raises(Pause):
        list(prune(state))
    assert not any("least squares" in note for note in state.notes)


def test_a_pause_after_the_last_step_keeps_the_result(tmp_path: Path, listener: Listener) -> None:
    answers = iter([False] * 15 + [True])
    pausing = checkpointer(tmp_path, seconds=None, pause_asked=lambda: next(answers))
    with pytest.raises(Pause):
        done("baseline", hear=listener.hear, checkpointer=pausing)
    assert json.loads(unseal(listener.kept / "1" / "state.json"))["where"]["ended"]


def test_a_listener_that_takes_nothing_cannot_hold_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "PATIENCE", 0.2)
    answers = iter([False] * 6 + [True])
    seen: list[Event] = []
    with pytest.raises(Pause):
        done("baseline", hear=seen.extend, checkpointer=checkpointer(tmp_path, pause_asked=lambda: next(answers)))
    assert [event.step for event in seen if isinstance(event, TrainingSaved)] == [1]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("epoch", "epocc"))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda place: flip(place / "training.safetensors"), "training.safetensors is not what was written"),
        (lambda place: edit(place / "state.json"), "state.json is damaged"),
        (lambda place: (place / "state.json").write_text("{}"), "cannot be read"),
        (lambda place: (place / "training.safetensors").unlink(), "cannot be read"),
        (lambda place: (place / "state.json").unlink(), "cannot be read"),
    ],
)
def test_a_damaged_save_costs_time_only(tmp_path: Path, listener: Listener, harm: Callable[[Path], object], says: str) -> None:
    state = done("baseline", hear=listener.hear, checkpointer=checkpointer(tmp_path))
    again = resumed(tmp_path, listener, 7)
    harm(tmp_path / "resume" / "training")
    again.found = None
    assert says in again.look()
    heard: list[Event] = []
    anew = done("baseline", hear=heard.extend, checkpointer=again)
    assert not [event for event in heard if isinstance(event, Log)]
    assert same(weights(anew), weights(state))


def test_a_save_of_other_work_or_of_another_stage_is_not_used(tmp_path: Path, listener: Listener) -> None:
    done("baseline", hear=listener.hear, checkpointer=checkpointer(tmp_path))
    with pytest.raises(UnusableCheckpoint, match="other work"):
        read_training(listener.kept / "7", "another fingerprint")
    plain, other = done("pruned"), done("pruned", checkpointer=resumed(tmp_path, listener, 7))
    assert same(weights(other), weights(plain))


def test_losses_that_are_no_numbers_are_kept_as_they_are(tmp_path: Path, listener: Listener) -> None:
    """A model may score an infinite loss on validation before it is trained."""
    state = state_before("baseline")
    state.checkpointer = checkpointer(tmp_path)
    worst = Validation(0.0, float("-inf"))
    plan, loss = TrainingConfig("prepare", 1, 1e-3, 64, 0), label_loss(state.task, state.model)
    ticks = train(state.model, plan, state.rows["train"], lambda: worst, loss, resumable=state.resumable("tune"))
    listener.hear(event for event in ticks if not isinstance(event, Step))
    assert read_training(listener.kept / "1", "same work").where.before == worst
