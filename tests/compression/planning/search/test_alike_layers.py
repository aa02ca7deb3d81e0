"""The exact way through all widths comes to what the program does, and in the time of an answer where the program does not."""

import random
import time
from dataclasses import replace
from typing import Any

import pytest

from compression.models.architectures.shapes import parameters_at
from compression.planning.search import costs
from compression.planning.search.alike_layers import solve_alike
from compression.planning.search.problem import Choice, Limit, Picks, Problem, Solution, Term
from compression.planning.search.solver import solve
from compression.planning.search.spaces import space_of
from compression.planning.search.within import solve_within
from compression.schema.error_tables import ErrorTables, LayerErrors
from compression.schema.errors import TargetOutOfReach
from compression.schema.report.measurements import Shape
from tests.compression.planning.search.made_problems import chain
from tests.compression.planning.search.test_spaces import BERT, SHAPE, count, group, of_encoder, problem_of, prune, tables


def problem(axes: tuple[str, ...], *shares: float, found: ErrorTables | None = None) -> tuple[Problem, list[str]]:
    """Return the choice of an encoder's widths and layers. shares: of parameters, and of bytes."""
    space: Any = space_of(found or of_encoder(), BERT, SHAPE, prune(axes=axes))
    several = [costs.parameters(shares[0] * count(SHAPE), count)]

    def parts(shape: Shape) -> Any:
        return parameters_at(BERT, shape, rows=66, outputs=2)

    several += [costs.stored_bytes(share * 4 * count(SHAPE), parts, None) for share in shares[1:]]
    return problem_of(space, several), [choice.name for choice in space.layer_choices]


@pytest.mark.parametrize(
    "axes", [("hidden", "heads", "ffn"), ("ffn", "layers"), ("hidden", "heads", "ffn", "layers"), ("layers",)]
)
@pytest.mark.parametrize("shares", [(0.9,), (0.7,), (0.8, 0.75)])
def test_it_comes_to_the_programs_solution(axes: tuple[str, ...], shares: tuple[float, ...]) -> None:
    asked, layers = problem(axes, *shares)
    found = solve_alike(asked, layers)
    assert asked.allows(found.picks)
    assert (found.proven, found.error) == (True, pytest.approx(solve(asked).error))


def test_what_is_out_of_reach_has_the_same_nearest_point() -> None:
    asked, layers = problem(("hidden", "ffn", "layers"), 0.01)
    with pytest.raises(TargetOutOfReach) as program:
        solve(asked)
    with pytest.raises(TargetOutOfReach) as own:
        solve_alike(asked, layers)
    assert own.value.cause == program.value.cause
    assert own.value.nearest.costs == pytest.approx(program.value.nearest.costs)  # type: ignore[attr-defined]
    assert sum(own.value.nearest.picks[name] for name in layers) == len(layers) - 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0.7, 0.4, 0.01])
def test_what_is_excluded_is_passed_over_without_a_program(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is found is excluded in turn, as `solve_within` does; each time the program comes to the same."""
    asked, layers = problem(("ffn", "layers"), share)
    monkeypatch.setattr("compression.planning.search.alike_layers.solve", lambda *_: pytest.fail("a program was solved"))
    for _ in range(8):
        found, program = outcome(solve_alike, asked, layers), outcome(lambda asked, _: solve(asked), asked, layers)
        assert (found[0], found[1]) == (program[0], pytest.approx(program[1]))
        picks = found[2]
        same = tuple(
            Term((one.name,), tuple(float(at == picks[one.name]) for at in range(one.options))) for one in asked.choices
        )
        limit = Limit("tried", len(asked.choices) - 1, same, firm=True, excludes=picks)
        asked = replace(asked, limits=(*asked.limits, limit))


def outcome(solve: Any, asked: Problem, layers: list[str]) -> tuple[bool, float, Picks]:
    """Return whether the limits are met, the error, and what is taken."""
    try:
        found, reached = solve(asked, layers), True
    except TargetOutOfReach as problem:
        found, reached = problem.nearest, False
    return reached, found.error, found.picks


def test_a_real_cost_above_its_sum_is_solved_without_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    space: Any = space_of(of_encoder(), BERT, SHAPE, prune(axes=("hidden", "ffn", "layers")))
    layers, asked = [choice.name for choice in space.layer_choices], []
    plain = space.cost_of
    monkeypatch.setattr(space, "cost_of", lambda cost, picks: 1.05 * plain(cost, picks))
    monkeypatch.setattr("compression.planning.search.alike_layers.solve", lambda *_: pytest.fail("a program was solved"))

    def solved(problem: Problem) -> Solution:
        asked.append(problem)
        return solve_alike(problem, layers)

    found = solve_within(space, [costs.parameters(0.6 * count(SHAPE), count)], solved)
    assert found.costs["parameters"] <= 0.6 * count(SHAPE)
    assert len(asked) > 1


def test_a_model_of_many_layers_is_gone_through_in_a_moment() -> None:
    draw, count = random.Random(0), 32
    layers = [f"layer {number}" for number in range(count)]
    choices = (Choice("hidden", 128), Choice("ffn", 16), *(Choice(name, 2) for name in layers))
    error = [Term((name,), (0.0, draw.random())) for name in layers]
    error += [Term((one.name,), tuple(0.1 * option for option in range(one.options))) for one in choices[:2]]
    each = tuple(value for a in range(128) for b in range(16) for value in ((200.0 - a) * (20 - b), 0.0))
    limit = Limit("parameters", 0.5 * 32 * 4000.0, tuple(Term(("hidden", "ffn", name), each) for name in layers))
    asked, began = Problem(choices, tuple(error), (limit,)), time.process_time()
    found = solve_alike(asked, layers, time.monotonic() + 1.5)
    assert time.process_time() - began < 1.0  # some 0.01 without a pause for garbage; all that it may take is 1.5
    assert asked.allows(found.picks)


def test_layers_that_cost_differently_are_left_to_the_program() -> None:
    asked = chain(1)
    layers = [choice.name for choice in asked.choices if choice.name.startswith("layer")]
    assert any(isinstance(term, Term) and {*layers} & {*term.choices} for limit in asked.limits for term in limit.terms)
    assert solve_alike(asked, layers).error == pytest.approx(solve(asked).error)


def test_twelve_layers_are_solved_in_the_time_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Shape(layers=12, hidden=768, heads=12, ffn=3072, vocabulary=30522)
    groups, layers = [group("hidden", 768, 50.0)], []
    for number in range(12):
        scale = 0.2 * 1.4**number
        groups += [group(f"heads.{number}", 12, scale), group(f"ffn.{number}", 3072, 2 * scale)]
        layers.append(LayerErrors(name=str(number), change=scale / 10, groups=(f"heads.{number}", f"ffn.{number}")))
    space: Any = space_of(tables(groups, layers), BERT, whole, prune(axes=("hidden", "heads", "ffn", "layers"), multiple=64))

    def counted(shape: Shape) -> int:
        return parameters_at(BERT, shape, rows=514, outputs=2).total

    asked = problem_of(space, [costs.parameters(0.3 * counted(whole), counted)])
    monkeypatch.setattr("compression.planning.search.alike_layers.solve", lambda *_: pytest.fail("the program takes 15 s"))
    began = time.process_time()
    found = solve_alike(asked, [choice.name for choice in space.layer_choices])
    assert time.process_time() - began < 3.0  # some 0.3 on a calm machine
    assert found.proven
    assert asked.allows(found.picks)
