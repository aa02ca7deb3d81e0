"""Errors count by the outcome of cuts that are judged, and cuts of other sizes say how changes grow with the error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compression.engine.stages import error_weights
from compression.engine.stages.error_tables import error_tables
from compression.engine.stages.error_weights import drawn_weights
from compression.engine.tables_checkpoint import stored_search
from compression.models.adapters.registry import adapter_of
from compression.planning.search.score_prediction import fit_power
from compression.planning.search.within import solve_within
from compression.planning.table_work import JUDGED
from compression.schema.errors import TargetOutOfReach
from compression.schema.events import Event, Log
from compression.schema.recipe.finalists import Finalists
from compression.system.progress import run_silently
from tests.compression.engine.stages.test_solved_widths import encoder_state, map_state
from tests.support.stage_runs import prune


@pytest.mark.parametrize("best", [0, -1])
def test_the_solution_that_changes_answers_least_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int) -> None:
    state = map_state(tmp_path, target_params=0.4, axes=["channels", "hidden"])
    judged: list[Any] = []

    def change(model: Any) -> float:
        judged.append(adapter_of(model).shape_of(model.config))
        return float(len(judged) if best == 0 else 100 - len(judged))

    monkeypatch.setattr("compression.engine.stages.error_weights.change_from", lambda *_: change)
    list(prune(state))
    (note,) = [note for note in state.notes if "solutions with drawn weights of layers" in note]
    drawn = judged[: int(note.split()[0])]
    assert drawn[0] != drawn[-1]
    assert adapter_of(state.model).shape_of(state.model.config) == drawn[best]
    assert len(judged) > len(drawn), "other sizes are judged, and none is taken"
    (ranked,) = [note for note in state.notes if note.startswith("Rank correlation")]
    assert ranked.endswith(f"over {len(judged)} cuts of this size and others.")


def test_what_is_best_of_the_finalists_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = map_state(tmp_path, target_params=0.4, axes=["channels", "hidden"])
    finalists = state.recipe.prune.model_copy(update={"finalists": Finalists(cuts=2)})
    state.recipe = state.recipe.model_copy(update={"prune": finalists})
    shapes = list[Any]()

    def last(_: object, asked: Finalists, changes: list[float], cut: Any) -> Iterator[Event]:
        yield Log(message="They are distilled.")
        assert asked.cuts == 2
        shapes.extend(adapter_of(model).shape_of(model.config) for model in map(cut, range(len(changes))))
        return max(range(len(changes)), key=changes.__getitem__)

    monkeypatch.setattr(error_weights, "best_finalist", last)
    monkeypatch.setattr(error_weights, "change_from", lambda *_: lambda _: float(next(grows)))
    grows = iter(range(99))
    list(prune(state))
    assert shapes[0] != shapes[-1]
    assert adapter_of(state.model).shape_of(state.model.config) == shapes[-1]


def test_of_few_cuts_no_rank_correlation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_weights, "FEWEST_RANKED", 100)
    state = map_state(tmp_path, target_params=0.4, axes=["channels", "hidden"])
    list(prune(state))
    assert any("solutions with drawn weights of layers" in note for note in state.notes)
    assert not any("ank correlation" in note for note in state.notes)


def test_cuts_are_judged_on_a_number_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, judged = encoder_state(tmp_path, target_params=0.4), list[Any]()
    plain = error_weights.change_from

    def change_from(whole: Any, rows: Any, parts: int) -> Any:
        judged.append(rows)
        return plain(whole, rows, parts)

    monkeypatch.setattr(error_weights, "change_from", change_from)
    monkeypatch.setattr(error_weights, "JUDGED_TOKENS", 100)
    list(prune(state))
    (rows,) = judged
    assert 50 < sum(rows.lengths) <= 100 < sum(state.rows["train"].lengths)


@pytest.mark.parametrize("multiple", [8, 16])
def test_cuts_of_other_sizes_say_how_changes_grow_with_the_error(tmp_path: Path, multiple: int) -> None:
    state = encoder_state(tmp_path, target_params=0.4, multiple=multiple)
    list(prune(state))
    found = stored_search(tmp_path, None, "")[1]
    own = next(each for each in found.outcomes if each.error == pytest.approx(found.error))
    milder, deeper = ([each for each in found.outcomes if sign * (each.error - own.error) > 0] for sign in (-1, 1))
    assert milder
    assert deeper
    assert min(each.change for each in milder) < own.change < max(each.change for each in deeper)
    assert fit_power(found.outcomes) is not None


def test_a_draw_without_a_solution_is_one_draw_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def some(space: Any, limits: Any, solve: Any) -> Any:
        asked.append(space)
        if len(asked) == 2:
            raise TargetOutOfReach("nothing")
        return solve_within(space, limits, solve)

    monkeypatch.setattr("compression.engine.stages.error_weights.solve_within", some)
    state = map_state(tmp_path, target_params=0.4, axes=["channels", "hidden"])
    list(prune(state))
    assert len(asked) == JUDGED
    assert any("solutions with drawn weights of layers" in note for note in state.notes)


def test_the_same_job_draws_the_same_weights(tmp_path: Path) -> None:
    first, again = (map_state(tmp_path, target_params=0.4, axes=["channels", "hidden"]) for _ in range(2))
    list(prune(first))
    list(prune(again))
    assert again.result.pruning == first.result.pruning
    (note,) = [note for note in first.notes if "solutions with drawn weights of layers" in note]
    assert note in again.notes


def test_the_first_draw_counts_all_alike_and_others_differ_by_group(tmp_path: Path) -> None:
    state = encoder_state(tmp_path)
    state.begin("pruned")
    tables, _ = run_silently(error_tables(state))
    assert drawn_weights(tables, 0) == {}
    first = drawn_weights(tables, 1)
    assert first == drawn_weights(tables, 1)
    assert {*first} == {group.key for group in tables.groups} | {layer.name for layer in tables.layers}
    assert len(set(first.values())) == len(first)
    assert first["ffn.0"] != drawn_weights(tables, 2)["ffn.0"]
