"""Where further full trainings begin after a kill, if another size cannot be cut again."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from compression.engine.stages.size_training import SizedTraining
from compression.schema.errors import MissingResource
from compression.schema.events import Event, Log
from compression.schema.report.size_search import SizeSearch
from compression.system.progress import Returning
from tests.compression.engine.stages.test_size_record import record, size

NONE: Any = None
SHORT = size(expected=0.95)
FIRST = size(kind="full", epochs=8, general_epochs=3, steps=80, kept=0.93, score=0.9, chosen=True)
SECOND = size(kind="full", epochs=7, cost=0.8, kept=0.94)
THIRD = size(kind="full", epochs=6, cost=0.9, kept=None, seconds=3.0)


def begun(monkeypatch: pytest.MonkeyPatch, best: Any) -> tuple[int, SizeSearch, str | None, list[Event]]:
    training = SizedTraining(SimpleNamespace(model=nn.Linear(1, 1)), NONE, NONE, NONE, torch.device("cpu"))

    def fails(own: SizedTraining, _: object) -> Iterator[Event]:
        yield Log(message="Tables are read.")
        own.best = best
        raise MissingResource("there is no table")

    monkeypatch.setattr(SizedTraining, "_found", lambda _: (2, record(SHORT, FIRST, SECOND, THIRD)))
    monkeypatch.setattr(SizedTraining, "_go_on", fails)
    events = list(each := Returning(training._begin()))
    return *each.result, events


def test_the_best_size_that_was_restored_is_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _, found, why, events = begun(monkeypatch, (2, NONE))
    assert found.tried == (SHORT, FIRST, SECOND)
    assert why == "no other size was cut: there is no table"
    assert events[-1] == Log(level="warning", message=f"{why}.")


def test_if_the_best_is_lost_the_first_size_is_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    number, found, why, _ = begun(monkeypatch, None)
    assert number == 0
    assert why is not None
    assert found.tried[:-1] == (SHORT,)
    again = found.tried[-1]
    assert (again.share, again.cost, again.kind) == (FIRST.share, FIRST.cost, "full")
    assert (again.kept, again.seconds, again.epochs, again.general_epochs, again.steps) == (None, None, 0, 0, 0)
