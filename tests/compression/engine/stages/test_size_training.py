"""Further full trainings: where they begin after a kill, which is the last, and what ends them."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from compression.engine.stages import size_training
from compression.engine.stages.size_training import MOST_OTHERS, SizedTraining
from compression.planning.size_plan import FullTraining
from compression.schema.errors import MissingResource, TrainingDiverged
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


@pytest.mark.parametrize(
    ("left", "number", "last"),
    [
        (340.0, 0, False),
        (300.0, 0, True),  # the next one is larger, takes 191 s and leaves less than a further one needs
        (340.0, MOST_OTHERS - 1, True),
    ],
)
def test_the_last_training_is_known_by_what_the_next_one_takes(
    left: float, number: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = SimpleNamespace(
        at=lambda share: share, share_of=lambda found: found, size=lambda share, **own: size(cost=share, **own, kept=None)
    )
    asked = list[bool]()

    def stored(_: object) -> Iterator[Event]:
        yield Log(message="Tables are read.")
        return (solver,)

    def share(*_: object, last: bool) -> tuple[float, str | None]:
        asked.append(last)
        return 0.56, None

    monkeypatch.setattr(size_training, "stored_solver", stored)
    monkeypatch.setattr(size_training, "another_share", share)
    monkeypatch.setattr(size_training, "expect", lambda tried, *_: (tried, 0.5))
    monkeypatch.setattr(size_training, "original_curve", lambda _: ())
    monkeypatch.setattr(size_training, "seconds_left", lambda *_: left)
    monkeypatch.setattr(size_training, "asked_training", lambda *_: FullTraining(8, 0, 10, 0))
    monkeypatch.setattr(SizedTraining, "_cut", lambda *_: stored(None))
    training = SizedTraining(SimpleNamespace(model=NONE), NONE, NONE, NONE, torch.device("cpu"), best=(0, nn.Linear(1, 1)))
    first = size(kind="full", cost=0.47, epochs=8, steps=80, kept=0.98, seconds=160.0)
    list(each := Returning(training._other_size(number, record(first))))
    found, why = each.result
    assert why is None
    assert found.tried[-1].cost == 0.56
    assert asked == [False, True][: 1 + last]


def test_a_further_training_that_diverges_costs_no_model_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(model=nn.Linear(1, 1), notes=[], result=SimpleNamespace(), clock=SimpleNamespace(seconds=60.0))
    training = SizedTraining(context, NONE, NONE, NONE, torch.device("cpu"))
    good, ends = context.model, iter([record(SHORT, FIRST.model_copy(update={"kept": 0.995})), None])

    def train(*_: object, follows: bool) -> Iterator[Event]:
        assert follows
        yield Log(message="It trains.")
        if (found := next(ends)) is None:
            raise TrainingDiverged("the loss is not finite")
        return found

    def other(own: SizedTraining, number: int, found: SizeSearch) -> Iterator[Event]:
        own.context.model = nn.Linear(1, 1)
        yield Log(message="It is cut.")
        return found.model_copy(update={"tried": (*found.tried, THIRD)}), None

    monkeypatch.setattr(SizedTraining, "_found", lambda _: (0, record(SHORT, FIRST)))
    monkeypatch.setattr(SizedTraining, "_train", train)
    monkeypatch.setattr(SizedTraining, "_other_size", other)
    events = list(training.run())
    assert context.model is good
    assert [one.chosen for one in context.result.sizes.tried] == [False, True]
    assert "nother size was not trained: the loss is not finite" in context.result.sizes.why
    assert "That meets the target" in context.notes[-1]
    assert events[-1].level == "warning"
