"""What a search for a size knows of its trainings: how long others take by them, and which size they speak for."""

import copy
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.engine.stage_clock import StageClock
from compression.engine.stages import size_record
from compression.engine.stages.size_record import (
    Original,
    RunningTime,
    asked_training,
    judged_original,
    pace_of,
    remembering,
    seconds_left,
    trained,
    with_error,
)
from compression.engine.stages.size_rounds import SizeRounds, best_share
from compression.evaluation.standard_error import answers_of, kept_error, scores_without
from compression.evaluation.validate import Validation, validate
from compression.planning.size_plan import FullTraining, Pace, exports_after
from compression.schema.errors import TrainingDiverged, UnsupportedShape
from compression.schema.events import Event, Log
from compression.schema.recipe.augment import Augment
from compression.schema.recipe.distill import Distill, General
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.size_search import SizeSearch, SizeTried
from compression.system.progress import Returning
from compression.training.config import TrainingOutcome
from tests.client.figures import row
from tests.support.tiny_bert import state_of

ASKED = FullTraining(epochs=8, general_epochs=3, epoch_steps=10, general_steps=200)


def size(**own: object) -> SizeTried:
    shape = row("pruned", 1, 1, 1.0, 0.5).shape
    given = {"kind": "short", "share": 0.5, "shape": shape, "layers": (), "parameters": 1, "cost": 0.5, "error": 1.0}
    return SizeTried.model_validate({**given, "steps": 100, "epochs": 2, "kept": 0.9, "seconds": 50.0, **own})


def record(*tried: SizeTried) -> SizeSearch:
    given = {"objective": "parameters", "budget_minutes": 1.0, "minutes": 0.0, "original": 0.9, "whole": 1}
    return SizeSearch.model_validate({"retention": 0.99, "tried": tried, **given})


def test_a_training_of_any_phase_is_remembered_with_its_time_so_far() -> None:
    seconds, seen = iter(range(10)), list[int]()

    def training() -> Generator[Event, None, str]:
        for _ in range(3):
            seen.append(remembered[-1])
            yield Log(message="A step.")
        return "done"

    remembered: list[int] = []
    each = Returning(remembering(training(), lambda: remembered.append(next(seconds))))
    assert len(list(each)) == 3
    assert each.result == "done"
    assert seen == [0, 1, 2]  # what saves would store


class Stuck:
    """A solver that has no time for other shares than those that it has solved for."""

    mildest = 0.95

    def error_at(self, share: float) -> float:
        raise UnsupportedShape(f"no widths for {share:.1%} were found in time")


def test_if_the_solver_has_no_time_the_best_of_the_rounds_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SizeRounds, "_is_time", lambda *_, twice: False)
    large, small = size(share=0.6, cost=0.6, error=1.0, expected=0.995), size(share=0.5, error=2.0, expected=0.99)
    assert best_share([large, small, size(share=0.3, cost=0.3, error=4.0, expected=0.9)], 0.99) == 0.5
    assert best_share([large, small], 0.999) == 0.6
    none: Any = None
    rounds = SizeRounds(none, none, none, none, {}, none, record(large, small), cast(Any, Stuck()))
    share, why = rounds._next(0.4)
    assert share == 0.5
    assert why is not None
    assert "no widths for" in why


def diverging(monkeypatch: pytest.MonkeyPatch, *done: SizeTried) -> SizeRounds:
    """Return rounds after these, of which the next one's training diverges."""

    def train(*_: object) -> Iterator[Event]:
        yield Log(message="It trains.")
        raise TrainingDiverged("the loss is not finite")

    monkeypatch.setattr(SizeRounds, "_next", lambda *_: (0.3, None))
    monkeypatch.setattr(SizeRounds, "_short", SimpleNamespace(steps=10, epochs=1))
    monkeypatch.setattr(SizeRounds, "_train", train)
    solver = SimpleNamespace(size=lambda share, **own: size(share=share, cost=share, kept=None, **own))
    none: Any = None
    return SizeRounds(none, none, none, none, {}, none, record(*done), cast(Any, solver))


def test_a_round_that_diverges_costs_no_size_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = size(share=0.6, cost=0.6, error=1.0, expected=0.995), size(share=0.5, error=2.0, expected=0.99)
    rounds = diverging(monkeypatch, large, small)
    events = list(each := Returning(rounds.run(0.4)))
    share, why = each.result
    assert (share, rounds.record.tried) == (0.5, (large, small))
    assert why == "2 sizes were distilled shortly; a further one was not: the loss is not finite"
    assert events[-1] == Log(level="warning", message=f"{why}.")


def test_a_first_round_that_diverges_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingDiverged):
        list(diverging(monkeypatch).run(0.4))


def test_a_share_whose_error_is_not_known_is_told_without_one() -> None:
    assert (with_error(0.9906, 0.0123), with_error(1.0, 0.0)) == ("99.06% ± 1.23%", "100.00%")


def test_a_step_of_a_larger_size_takes_longer_than_one_of_the_last_that_was_trained() -> None:
    assert pace_of(record(), ASKED, 0.5) is None
    known = record(size(cost=0.8, seconds=90.0), size(cost=0.25), size(cost=0.3, kept=None, seconds=None))
    assert pace_of(known, ASKED, 0.25) == pace_of(known, ASKED, 0.1) == Pace(0.5)
    assert pace_of(known, ASKED, 0.75) == Pace(pytest.approx(1.5))


def test_a_short_training_says_what_steps_take_and_what_judging_does() -> None:
    """Of 100 steps and 2 epochs, 4 passes over validation; a full one of 80 steps and 8 epochs passes over it 10 times."""
    asked = FullTraining(epochs=8, general_epochs=0, epoch_steps=100, general_steps=0)
    pace = pace_of(record(size(seconds=50.0, judging_seconds=10.0)), asked, 0.5)
    assert pace == Pace(pytest.approx(0.1), 10.0)
    assert asked.seconds(pace) == pytest.approx(80 + 100)
    assert asked.fitted(pace, 181) == asked
    assert pace_of(record(size(seconds=50.0, judging_seconds=20.0)), asked, 0.5) == Pace(pytest.approx(0.05), 20.0)
    assert pace_of(record(size(cost=0.25, judging_seconds=10.0)), asked, 0.5) == Pace(pytest.approx(0.2), 20.0)
    general = size(kind="full", steps=20, epochs=2, general_epochs=3, seconds=710.0, judging_seconds=10.0)
    assert pace_of(record(general), ASKED, 0.5) == Pace(1.0, 10.0)
    error = size(seconds=50.0, judging_seconds=5.0, error_seconds=10.0)  # whose time a training takes once
    pace = pace_of(record(error), asked, 0.5)
    assert pace == Pace(pytest.approx(0.2), 5.0, 10.0)
    assert asked.seconds(pace) == pytest.approx(160 + 50 + 10)


def test_steps_of_the_general_phase_are_those_of_its_own_texts() -> None:
    full = size(kind="full", steps=20, epochs=2, general_epochs=3)  # 600 more
    assert pace_of(record(full), ASKED, 0.5) == Pace(pytest.approx(50 / 620))


def test_new_rows_count_in_a_full_distillation_and_not_in_its_general_phase(model: BertForSequenceClassification) -> None:
    state = state_of(model, Recipe(train=Train(batch=16)))
    plain = asked_training(state, Distill(epochs=2, general=General(epochs=3)), record())
    augmented = Distill(epochs=2, general=General(epochs=3), augment=Augment(splices=2))
    more = asked_training(state, augmented, record(size()))
    assert (plain.steps, plain.general_steps) == (40, 20)
    assert (more.steps, more.general_steps) == (120, 20)
    had = size(kind="full", steps=80, epochs=2)  # what augmentation made, once a training has had it
    assert asked_training(state, augmented, record(size(), had)).steps == 80


def test_time_is_left_for_the_exports_that_the_recipe_asks_for_and_for_lm_eval(model: BertForSequenceClassification) -> None:
    forms = ("transformers", "onnx-f16", "triton", "openvino-int8", "openvino-f16")
    state, other = state_of(model, Recipe()), state_of(model, Recipe(artifacts=forms))
    for each in (state, other):
        each.clock = StageClock(now=lambda: 0.0, asked=30.0)
    budget = record().model_copy(update={"budget_minutes": 10.0, "ship_seconds": 20.0})
    assert seconds_left(state, budget) == 600 - 6 * 20 - 30
    assert seconds_left(state, budget, cut=False) == 600 - 7 * 20 - 60
    assert seconds_left(other, budget) == 600 - 7 * 20 - 30
    assert exports_after(None, generates=True) == 6


def test_a_training_that_patience_ended_counts_for_the_epochs_that_it_had(model: BertForSequenceClassification) -> None:
    state = state_of(model, Recipe(train=Train(batch=16)))
    state.teacher = model
    curve = tuple(Validation(score, -1.0) for score in (0.6, 0.9, 0.8))
    outcome = TrainingOutcome(2, Validation(0.5, -1.0), curve[1], False, curve=curve, out_of_patience=True)
    planned = size(kind="full", steps=80, epochs=8, kept=None, seconds=None)
    clock = SimpleNamespace(seconds=15.0)
    original = Original(Validation(1.0, -1.0), judged_original(state).without)
    found = trained(state, planned, outcome, original, RunningTime(clock, 15.0))
    fewer = trained(state, planned, outcome, original, RunningTime(clock, 15.0), rows=96)
    assert [one.steps for one in fewer.curve] == [6, 12, 18]  # of rows that augmentation made fewer
    assert (found.epochs, found.steps, found.kept) == (3, 30, 0.9)
    assert [(one.steps, one.kept) for one in found.curve] == [(10, 0.6), (20, 0.9), (30, 0.8)]
    assert pace_of(record(found), ASKED, 0.5) == Pace(pytest.approx(15 / 30))


def test_a_training_tells_what_judging_took_and_the_original_is_asked_once(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(model, Recipe(train=Train(batch=16)))
    state.teacher, rows = copy.deepcopy(model), state.rows["validation"]
    with torch.no_grad():
        for own in state.teacher.classifier.parameters():
            own.neg_()  # it says the opposite
    clock, asked = SimpleNamespace(seconds=15.0), list[object]()
    without = [scores_without(answers_of(each, rows), rows) for each in (model, state.teacher)]
    plain = {name: getattr(size_record, name) for name in ("answers_of", "scores_without")}

    def answers(one: Any, *given: Any) -> Any:
        asked.append(one)
        clock.seconds += 4.0
        return plain["answers_of"](one, *given)

    def each_without(*given: Any) -> Any:
        clock.seconds += 7.0
        return plain["scores_without"](*given)

    monkeypatch.setattr(size_record, "answers_of", answers)
    monkeypatch.setattr(size_record, "scores_without", each_without)
    original, began = judged_original(state), clock.seconds
    assert original.score == validate(state.teacher, rows) != validate(model, rows)
    outcome = TrainingOutcome(1, Validation(0.5, -1.0), Validation(0.6, -1.0), False, curve=(Validation(0.6, -1.0),))
    found = trained(state, size(seconds=None), outcome, original, RunningTime(cast(Any, clock), 5.0))
    assert len(asked) == 2
    assert (asked[0] is state.teacher, asked[1] is model) == (True, True)
    assert (found.judging_seconds, found.error_seconds, found.seconds) == (4.0, 7.0, 5.0 + clock.seconds - began)
    assert found.kept_error == kept_error(*without) != 0.0
