"""A device's training is saved while it goes on, from a copy in the host's memory."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compression.modalities.base import label_loss
from compression.schema.events import Log, TrainingSaved
from compression.system.interrupts import Pause
from compression.system.progress import Step
from compression.training import save
from compression.training.save import TENSORS, read_training
from compression.training.work import TrainingHooks
from tests.compression.training.conftest import Listener, checkpointer
from tests.conftest import ROOT, wait_for
from tests.support import placement
from tests.support.second_device import second_device

RECIPE = placement.scenarios("float32")["encoder cached"][1]
PLAN = {"epochs": 2, "rate": 1e-3}


def training(device: torch.device, saver: save.TrainingCheckpointer) -> Any:
    """Return a state, and the training of six steps that it begins."""
    state = placement.encoder(device, RECIPE)
    state.checkpointer = saver
    loss = label_loss(state.task, state.model)
    return state, state.train("tune", state.plan("prepare", **PLAN), loss, TrainingHooks())


def held(release: Callable[[], object]) -> Callable[..., TrainingSaved]:
    plain = save._write

    def write(*given: Any) -> TrainingSaved:
        release()
        return plain(*given)

    return write


def test_training_goes_on_while_its_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released, weights, seen = threading.Event(), list[torch.Tensor](), list[TrainingSaved]()
    monkeypatch.setattr(save, "_write", held(lambda: released.wait(60)))
    with second_device() as device:
        state, ticks = training(device, checkpointer(tmp_path))
        for event in ticks:
            if isinstance(event, TrainingSaved):
                seen.append(event)
                assert event.step == 1  # though training is at the third step
                state.checkpointer.seconds = None
            elif isinstance(event, Log):
                continue  # of the trial of its micro-batches
            elif event.step == 1 and not weights:
                weights += [value.detach().cpu() for value in state.model.parameters()]
            elif event.step == 2:
                assert not list((tmp_path / "out").glob("training-*"))
                state.checkpointer.seconds = 1e9  # none is due any more
            elif event.step == 3 and not seen:
                released.set()
                state.checkpointer._writing.result()
    (event,) = seen
    place = tmp_path / "out" / event.folder
    assert read_training(place, "same work").where.step == 1
    assert [file.path for file in event.files] == ["state.json", TENSORS]
    saved = load_file(place / TENSORS)
    assert all(saved[f"weight.{number}"].equal(weight) for number, weight in enumerate(weights))
    assert not saved["weight.0"].equal(next(state.model.parameters()).detach().cpu())


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time that saves go by."""
    now = [time.monotonic()]
    monkeypatch.setattr(save, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    return now


def test_no_save_is_due_while_the_last_one_is_written(
    tmp_path: Path, now: list[float], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval is over after each step; the first write lasts until the fourth, and the last until training has ended."""
    released = [threading.Event() for _ in range(2)]
    numbers, steps = iter(range(9)), list[int]()

    def wait() -> None:
        if (number := next(numbers)) < len(released):
            assert released[number].wait(300), "training waits for a save"

    monkeypatch.setattr(save, "_write", held(wait))
    with second_device() as device:
        state, ticks = training(device, checkpointer(tmp_path, seconds=1.0))

        def stepped() -> Any:
            for event in ticks:
                if not isinstance(event, Step):
                    yield event
                    continue
                now[0] += 1000
                if event.loss is not None and event.score is None:
                    steps.append(event.step)
                    if event.step == 4:
                        released[0].set()
                        state.checkpointer._writing.result()
                elif event.step == event.total:  # the last epoch's score
                    released[1].set()

        listener.hear(stepped())
    assert [event.step for event in listener.saves] == [1, 4, steps[-1]]
    assert read_training(listener.kept / "3", "same work").where.ended


def test_a_pause_loses_neither_what_is_written_nor_where_it_stops(
    tmp_path: Path, now: list[float], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, asked = threading.Event(), list[bool]()

    def pause_asked() -> bool:
        now[0] += 1000
        asked.append(len(asked) == 2)
        if asked[-1]:
            released.set()
        return asked[-1]

    monkeypatch.setattr(save, "_write", held(lambda: released.wait(60)))
    with second_device() as device:
        _, ticks = training(device, checkpointer(tmp_path, seconds=1.0, pause_asked=pause_asked))
        with pytest.raises(Pause):
            listener.hear(event for event in ticks if not isinstance(event, Step))
    assert [read_training(listener.kept / str(number), "same work").where.step for number in (1, 2)] == [1, 3]


def test_after_an_interval_of_0_the_next_save_waits_for_the_last_one(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save, "_write", held(lambda: time.sleep(0.02)))
    with second_device() as device:
        _, ticks = training(device, checkpointer(tmp_path))
        listener.hear(event for event in ticks if not isinstance(event, Step))
    steps = [event.step for event in listener.saves]
    assert steps == [*range(1, steps[-1] + 1), steps[-1]]
    assert len(steps) > 3
    assert read_training(listener.kept / str(len(steps)), "same work").where.ended


def test_a_full_disk_stops_the_training_that_it_cannot_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(save, "_write", held(full))
    with second_device() as device, pytest.raises(OSError, match="No space left"):
        list(training(device, checkpointer(tmp_path))[1])


WRITES = """
import sys, time
from pathlib import Path
import torch
from compression.schema.events import TrainingSaved
from compression.training import save
from tests.compression.training.conftest import Listener, checkpointer
from tests.compression.training.test_saves_beside import training
from tests.support.second_device import second_device
torch.set_num_threads(1)
place, numbers, plain = Path(sys.argv[1]), iter(range(2)), save.list_files
save.list_files = lambda folder: plain(folder) if next(numbers) == 0 else time.sleep(600)
with second_device() as device:
    ticks = training(device, checkpointer(place))[1]
    Listener(place / "kept").hear(event for event in ticks if isinstance(event, TrainingSaved))
"""
"""Writes the first state, and hangs in the midst of the second."""


def test_a_kill_while_a_state_is_written_leaves_the_one_before(tmp_path: Path, listener: Listener) -> None:
    # A process of its own: one forked from this one may hang in torch, whose threads it lacks.
    with (tmp_path / "errors").open("w+") as errors:
        child = subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path)], cwd=ROOT, stderr=errors)
        partial = tmp_path / "out" / ".training-2.partial" / TENSORS
        try:
            wait_for(lambda: partial.exists() or child.poll() is not None, 300)
        finally:
            child.kill()
            child.wait()
        assert partial.exists(), (tmp_path / "errors").read_text()
    assert read_training(listener.kept / "1", "same work").where.step == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".training-2.partial"]
