"""What two processes gather for a save is written while they go on."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compression.schema.events import TrainingSaved
from compression.training import save
from compression.training.ranks import Ranks
from compression.training.save import TENSORS
from tests.compression.training.conftest import Listener, checkpointer
from tests.compression.training.test_ranks import do, two  # noqa: F401 (a fixture)
from tests.compression.training.test_saves_beside import held


class AtOnce:
    """Does what a thread would, before it returns."""

    def __init__(self, *_: Any) -> None:
        pass

    def submit(self, work: Callable[..., TrainingSaved], *given: Any) -> Future[TrainingSaved]:
        done = Future[TrainingSaved]()
        done.set_result(work(*given))
        return done

    def shutdown(self, *, wait: bool) -> None:
        pass


def test_what_two_processes_gather_is_written_while_they_go_on(
    two: Ranks,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same as before they go on, to the bit: each weight, the steps' count, and what the loss trains beside the model."""
    released, steps = threading.Event(), list[int]()

    def saved(place: Path) -> dict[str, torch.Tensor]:
        (place / "kept").mkdir(parents=True)
        listener, saver = Listener(place / "kept"), checkpointer(place, seconds=1e-9)

        def after(step: int) -> None:
            steps.append(step)
            if step == 2:
                saver.seconds = 1e9  # the first step alone is saved
            elif step == 4:
                released.set()

        do("distilled", two, hear=listener.hear, after=after, checkpointer=saver)
        (event,) = listener.saves
        assert event.step == 1
        return load_file(listener.kept / "1" / TENSORS)

    def wait() -> None:
        assert released.wait(300), "training waits for a save"
        assert steps[-1] >= 4

    with monkeypatch.context() as patch:
        patch.setattr(save, "_write", held(wait))
        beside = saved(tmp_path / "beside")
    with monkeypatch.context() as patch:
        patch.setattr(save, "ThreadPoolExecutor", AtOnce)
        before = saved(tmp_path / "before")
    assert {key for key in before if key.startswith("step.")}
    assert before.keys() == beside.keys()
    assert all(beside[key].equal(value) for key, value in before.items())
