"""A solution is paused in its midst, and one of layers that cost alike takes no program."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compression.engine.stages import signs_of_life
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import BERT
from compression.planning.search import alike_layers, costs, solving
from compression.planning.search.problem import Problem, Solution
from compression.planning.search.reach import blank_tables
from compression.planning.search.spaces import space_of
from compression.planning.search.within import solve_within
from compression.system.interrupts import Pause
from tests.compression.engine.stages.test_solved_widths import encoder_state
from tests.support.stage_runs import counter


def test_a_solution_that_takes_long_ends_with_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, begun, over = encoder_state(tmp_path), threading.Event(), threading.Event()

    def long(problem: Problem, layers: Any) -> Solution:
        begun.set()
        over.wait(60)
        return Solution({}, 0.0, {})

    monkeypatch.setattr(solving, "solve_alike", long)
    state.checkpointer.pause_asked = begun.is_set
    any_space: Any = SimpleNamespace(layer_choices=(), bit_choices=())
    with pytest.raises(Pause):
        signs_of_life.solver_of(state, any_space)(Problem((), (), ()))
    over.set()


def test_layers_of_a_transformer_are_chosen_without_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = encoder_state(tmp_path, axes=["hidden", "heads", "ffn", "layers"])
    count, whole = counter(state.model), adapter_of(state.model).shape_of(state.model.config)
    prune = state.recipe.prune
    space = space_of(blank_tables(whole, prune, None), BERT, whole, prune, None)

    def none(*_: object) -> Solution:
        raise AssertionError("a program was solved")

    monkeypatch.setattr(alike_layers, "solve", none)
    limit = costs.parameters(0.5 * count(whole), count)
    found = solve_within(space, [limit], signs_of_life.solver_of(state, space))
    assert count(found.shape) <= limit.most
    assert len(space.layer_choices) == 3
