"""The exact way through all widths comes to what the program does, and in the time of an answer where the program does not."""

import time
from typing import Any

import pytest

from compression.models.architectures.shapes import parameters_at
from compression.planning.search import costs
from compression.planning.search.alike_layers import solve_alike
from compression.planning.search.problem import Problem, Term
from compression.planning.search.solver import solve
from compression.planning.search.spaces import space_of
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
