"""The stage that prunes, with feed-forward widths that the solver chooses layer by layer."""

from pathlib import Path
from typing import Any

import pytest

from compression.engine.context import StageContext
from compression.engine.stages import points
from compression.engine.stages.search_refusals import check_search_targets
from compression.engine.tables_checkpoint import read_tables, stored_search
from compression.models.adapters.registry import adapter_of
from compression.planning.search.targets import Answerer
from compression.schema.errors import TargetOutOfReach
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.report.measurements import Latency, Shape
from compression.schema.target_answer import TargetQuestion
from compression.training.save import TrainingCheckpointer
from tests.compression.engine.stages.test_points import LAYERS, numbered, numbers_of
from tests.compression.engine.stages.test_solved_widths import encoder_state, latency_of, recipe_of, with_times
from tests.support.device_tables import made_table
from tests.support.stage_runs import counter, prune
from tests.support.tiny_bert import state_of


def free_state(place: Path, **settings: Any) -> StageContext:
    return encoder_state(place, free_widths=True, **settings)


def shape_of(state: StageContext) -> Shape:
    return adapter_of(state.model).shape_of(state.model.config)


def whole_parameters(state: StageContext) -> int:
    return adapter_of(state.model).parameters_of(state.model).total


def units_of(model: Any) -> list[int]:
    return [layer.up.out_features for layer in adapter_of(model).layers(model)]


def test_each_layer_keeps_what_the_solver_chose_within_the_target(tmp_path: Path) -> None:
    state = free_state(tmp_path, target_params=0.3)
    before = whole_parameters(state)
    list(prune(state))
    shape, told = shape_of(state), state.result.pruning
    assert shape.ffns is not None
    assert units_of(state.model) == [*shape.ffns]
    assert whole_parameters(state) == counter(state.model)(shape) <= 0.7 * before
    assert {key: each["after"] for key, each in told["ffn"]["groups"].items()} == {
        f"ffn.{number}": units for number, units in enumerate(shape.ffns)
    }
    assert told["ffn"]["after"] == round(sum(shape.ffns) / 3)
    assert any(f"prune.search solver chose {shape.short}" in note for note in state.notes)
    assert f"/{min(shape.ffns)}–{max(shape.ffns)}" in shape.short


@pytest.mark.parametrize("search", ["tpe", "nsga2", "rl"])
def test_other_searches_choose_among_the_same_widths(search: str, tmp_path: Path) -> None:
    state = free_state(tmp_path, search=search, target_params=0.3, search_budget={"evaluations": 60})
    before = whole_parameters(state)
    list(prune(state))
    assert whole_parameters(state) <= 0.7 * before
    assert state.result.search is not None
    assert state.result.search.chosen.search == search


def test_layers_that_go_take_their_widths_along(tmp_path: Path) -> None:
    state = free_state(tmp_path, target_params=0.6, axes=["hidden", "heads", "ffn", "layers"])
    list(prune(state))
    shape, groups = shape_of(state), state.result.pruning["ffn"]["groups"]
    assert len(groups) == shape.layers < 3
    assert [each["after"] for each in groups.values()] == [*shape.each_ffn] == units_of(state.model)


def test_a_latency_is_met_by_what_each_layer_takes(tmp_path: Path) -> None:
    state = free_state(tmp_path, axes=["ffn"])
    times = with_times(state)
    whole = times.milliseconds(shape_of(state), None)
    assert whole is not None
    target = 0.9 * whole
    asked = state.recipe.prune.model_copy(update={"target_latency": TargetLatency(milliseconds=target)})
    state.recipe = state.recipe.model_copy(update={"prune": asked})
    timed: list[Shape] = []

    def measured(model: Any) -> Latency:
        assert units_of(model) == [*adapter_of(model).shape_of(model.config).each_ffn]
        timed.append(adapter_of(model).shape_of(model.config))
        return latency_of(times.milliseconds(timed[-1], None))

    state.timed = measured
    assert list(check_search_targets(state)) == []
    list(prune(state))
    assert timed == [shape_of(state)]
    assert timed[0].ffns is not None
    assert times.milliseconds(timed[0], None) <= target


def test_what_no_widths_meet_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(TargetOutOfReach, match="parameters"):
        list(check_search_targets(free_state(tmp_path, target_params=0.5, axes=["ffn"])))
    late = free_state(tmp_path, target_latency={"milliseconds": 1e-6})
    with_times(late)
    with pytest.raises(TargetOutOfReach, match="cannot be reached; the nearest point has"):
        list(check_search_targets(late))


def test_an_attempt_that_goes_on_in_recovery_has_the_same_widths(tmp_path: Path) -> None:
    settings = {"target_params": 0.5, "axes": ["hidden", "heads", "ffn", "layers"], "recovery": {"epochs": 1, "rate": 1e-3}}
    first, saved = free_state(tmp_path / "one", **settings), list[Any]()
    plain = first.resumable
    first.resumable = lambda phase, beside=None: saved.append(beside) or plain(phase, beside)  # type: ignore[method-assign]
    list(prune(first))
    again = free_state(tmp_path / "two", **settings)
    again.saved = lambda phase: saved[0]  # type: ignore[method-assign]
    list(prune(again))
    assert shape_of(again) == shape_of(first)
    assert again.result.pruning == first.result.pruning


def test_each_size_of_a_front_is_cut_from_the_one_before_it(tmp_path: Path) -> None:
    settings = {"search": "solver", "free_widths": True, "points": 3, "calibration_rows": 64, "multiple": 8}
    axes = {"axes": ["hidden", "heads", "ffn", "layers"], "target_params": 0.75}
    recipe = recipe_of(Prune()).model_copy(update={"prune": Prune.model_validate({**settings, **axes}), "distill": Distill()})
    state = state_of(numbered(), recipe)
    state.checkpointer = TrainingCheckpointer(tmp_path, "")
    list(prune(state))
    found = state.result.points
    assert len(found[-1].layers) < LAYERS
    assert any(one.shape.ffns is not None for one in found)
    for number, size in enumerate(found):
        if number:
            points._cut(state, found[number - 1], size)
        assert shape_of(state) == size.shape
        assert units_of(state.model) == [*size.shape.each_ffn]
        assert numbers_of(state.model) == [*size.layers]
        assert whole_parameters(state) == size.parameters


def test_other_targets_are_answered_with_widths_of_each_layer(tmp_path: Path) -> None:
    state = free_state(tmp_path, target_params=0.2)
    list(prune(state))
    folder, search = stored_search(tmp_path, None, "")
    tables = read_tables(folder, "", search.digest)[0]
    asked = Answerer(tables, search, made_table(), tokens=32)
    answer = asked.answer(TargetQuestion(target_params=0.3), 2.0)
    assert answer.reached
    assert answer.point.shape.ffns is not None
    assert answer.point.parameters.total <= 0.7 * answer.whole.parameters.total
    assert answer.point.milliseconds == asked.times.milliseconds(answer.point.shape, search.scheme)
    missed = asked.answer(TargetQuestion(target_params=0.99), 2.0)
    assert (missed.reached, missed.point.shape.layers) == (False, 3)
    front = asked.front("parameters", 4.0)
    totals = [point.parameters.total for point in front.points]
    assert len(totals) > 3
    assert totals == sorted(totals, reverse=True)
