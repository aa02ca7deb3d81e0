"""Bits of layers beside widths: sums are the bytes of every combination, and the exact way is the program's."""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.planning.search import alike_bits, costs
from compression.planning.search.comparison import search_of
from compression.planning.search.mixed_space import EIGHT, FOUR
from compression.planning.search.problem import OutOfTime, Problem
from compression.planning.search.reach import blank_tables
from compression.planning.search.solver import solve
from compression.planning.search.solving import solver_for
from compression.planning.search.spaces import space_of
from compression.planning.search.targets import Answerer
from compression.planning.search.trials import Trials, searched
from compression.planning.search.within import solve_within
from compression.schema.error_tables import ErrorTables, IntegerErrors
from compression.schema.errors import TargetOutOfReach
from compression.schema.recipe.prune import SearchBudget
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.solved_search import ParameterFacts, SolvedSearch
from compression.schema.target_answer import TargetQuestion
from tests.compression.planning.search.test_spaces import BERT, EVERY, SHAPE, of_encoder, problem_of, prune

INT4 = Quantize(scheme="weight-only-int4")
MODULES = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")


def with_integers(tables: ErrorTables, layers: int, scale: float = 0.02) -> ErrorTables:
    """Return tables in which the deeper a layer is, the more it loses in 4 bits; the head is no layer's."""
    integers = [IntegerErrors(layer="classifier", schemes={"weight-only-int4": 1.0, "weight-only-int8": 0.5})]
    for number in range(layers):
        for at, name in enumerate(MODULES):
            coarse = scale * (1 + number) * (1 + at / 8)
            own = {"weight-only-int4": coarse, "weight-only-int8": coarse / 200}
            integers.append(IntegerErrors(layer=f"bert.encoder.layer.{number}.{name}", schemes=own))
    return tables.model_copy(update={"integers": tuple(integers)})


def parts(shape: Shape) -> Parameters:
    return parameters_at(BERT, shape, rows=66, outputs=2)


def space_with(axes: tuple[str, ...], scale: float = 0.02, **settings: Any) -> Any:
    tables = with_integers(of_encoder(), 3, scale)
    return space_of(tables, BERT, SHAPE, prune(axes=axes, mixed_bits=True, target_bytes=0.3, **settings))


def in_bytes(share: float) -> costs.Cost:
    """Return a limit as a share of what the whole model takes in 4 bits."""
    return costs.stored_bytes(share * costs.bytes_of(SHAPE, parts, INT4), parts, INT4)


AXES = [("hidden", "heads", "ffn"), ("ffn", "layers"), ("hidden", "ffn", "layers"), ("layers",)]


@pytest.mark.parametrize("axes", AXES)
def test_sums_are_the_bytes_and_errors_of_every_combination(axes: tuple[str, ...]) -> None:
    space = space_with(axes)
    limits = [in_bytes(1.0), costs.parameters(1, lambda shape: parts(shape).total)]
    problem = problem_of(space, limits)
    draw = random.Random(0)
    every = [{choice.name: draw.randrange(choice.options) for choice in space.choices} for _ in range(200)]
    for picks in every:
        if not space.layers(picks):
            continue
        shape = space.shape(picks)
        assert len(shape.eight_bits) == sum(picks[f"bits {number}"] == EIGHT for number in space.layers(picks))
        told, spent = problem.costs_of(picks), {cost.name: space.cost_of(cost, picks) for cost in limits}
        assert {name: told[name] for name in spent} == pytest.approx(spent)
        integers = space.widths.tables.integers[1:]
        rounded = [integers[4 * number + at].schemes for number in space.layers(picks) for at in range(4)]
        own = ["weight-only-int4" if picks[f"bits {number}"] == FOUR else "weight-only-int8" for number in space.layers(picks)]
        more = sum(each[own[at // 4]] for at, each in enumerate(rounded))
        widths = Problem(space.choices, space.widths.error, ()).error_of(picks)
        assert problem.error_of(picks) == pytest.approx(widths + more)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("share", [1.3, 1.0, 0.8])
@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_it_comes_to_the_programs_solution(axes: tuple[str, ...], share: float, scale: float) -> None:
    space = space_with(axes, scale)
    asked = problem_of(space, [in_bytes(share)])
    found = solver_for(space)(asked)
    assert asked.allows(found.picks)
    assert (found.proven, found.error) == (True, pytest.approx(solve(asked).error, rel=1e-6))


def test_layers_that_lose_most_get_the_bits_that_others_pay_for() -> None:
    space = space_with(("ffn",), 0.1)
    found = solve_within(space, [in_bytes(1.05)], solver_for(space))
    plain = solve_within(space_of(of_encoder(), BERT, SHAPE, prune(axes=("ffn",))), [in_bytes(1.05)])
    assert plain.shape.ffn == 128, "in 4 bits nothing has to go"
    assert found.shape.eight_bits in ((2,), (1, 2))
    assert found.shape.ffn < 128, "what is cut pays for it"
    assert found.costs["bytes"] == pytest.approx(costs.bytes_of(found.shape, parts, INT4))
    assert "of them in 8 bits" in found.shape.short


def test_layers_are_counted_as_the_cut_model_numbers_them() -> None:
    space = space_with(("layers",))
    picks = {"layer 0": 1, "layer 1": 0, "layer 2": 0, "bits 0": FOUR, "bits 1": FOUR, "bits 2": EIGHT}
    assert space.shape(picks).eight_bits == (1,)


@pytest.mark.parametrize("axes", [("ffn",), ("ffn", "layers")])
def test_what_is_out_of_reach_has_the_programs_nearest_point(axes: tuple[str, ...]) -> None:
    space = space_with(axes)
    asked = problem_of(space, [in_bytes(0.01)])
    with pytest.raises(TargetOutOfReach) as program:
        solve(asked)
    with pytest.raises(TargetOutOfReach) as own:
        solver_for(space)(asked)
    assert own.value.nearest.costs == pytest.approx(program.value.nearest.costs)  # type: ignore[attr-defined]


def test_several_limits_hold_together_and_what_was_tried_is_excluded() -> None:
    space = space_with(("hidden", "ffn", "layers"), 0.5)
    limits = [in_bytes(1.0), costs.parameters(0.75 * parts(SHAPE).total, lambda shape: parts(shape).total)]
    found = solve_within(space, limits, solver_for(space))
    assert found.within(limits)
    assert found.error == pytest.approx(solve(problem_of(space, limits)).error)
    # A cost that is no sum: its limit is tightened, and what was above it is not taken again.
    wrong = replace(limits[0], of_shape=lambda shape: limits[0].of_shape(shape) + 400 * len(shape.eight_bits or ()) ** 2)
    again = solve_within(space, [wrong, limits[1]], solver_for(space))
    assert again.within([wrong, limits[1]])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_decoders_have_bits_too(kind: str) -> None:
    (shape, axes), family = EVERY[kind], ARCHITECTURE_SPECS[kind]
    settings = prune(axes=axes, mixed_bits=True, target_bytes=0.3)
    tables = with_integers(blank_tables(shape, settings, None), shape.layers)
    space: Any = space_of(tables, family, shape, settings)
    counted = partial(parameters_at, family, outputs=2)
    limit = costs.stored_bytes(costs.bytes_of(shape, counted, INT4), counted, INT4)
    asked = problem_of(space, [limit])
    found = solver_for(space)(asked)
    assert space.cost_of(limit, found.picks) <= limit.most
    assert found.error == pytest.approx(solve(asked).error, abs=1e-9)


def test_what_is_too_much_is_solved_as_a_program_and_time_ends_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_with(("ffn",), 0.5)
    asked = problem_of(space, [in_bytes(1.0)])
    wanted = solver_for(space)(asked)
    with pytest.raises(OutOfTime):
        solver_for(space)(asked, until=0.0)
    clock = iter((0.0, 0.0, 2.0))
    monkeypatch.setattr(alike_bits.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(alike_bits, "TOGETHER", 1)
    with pytest.raises(OutOfTime):
        solver_for(space)(asked, until=1.0)
    monkeypatch.undo()
    monkeypatch.setattr(alike_bits, "MOST_NUMBERS", 1)
    assert solver_for(space)(asked).error == pytest.approx(wanted.error)


def test_the_uncut_model_has_the_schemes_bits() -> None:
    space = space_with(("ffn", "layers"))
    shape = space.shape(space.uncut)
    assert (shape.layers, shape.ffn, shape.eight_bits) == (3, 128, ())
    assert space.cost_of(in_bytes(1.0), space.uncut) == pytest.approx(in_bytes(1.0).most)


def test_other_targets_of_a_finished_job_choose_bits_too() -> None:
    settings = prune(axes=("ffn",), mixed_bits=True, target_bytes=0.3)
    tables = with_integers(of_encoder(), 3, 0.1)
    known = {"before": SHAPE, "whole": SHAPE, "prune": settings, "quantize": INT4, "error": 1.0, "scheme": "weight-only-int4"}
    search = SolvedSearch(digest=tables.digest, family="bert", parameters=ParameterFacts(rows=66, outputs=2), **known)
    answerer = Answerer(tables, search)
    most = 1.05 * answerer.whole.bytes
    found = answerer.answer(TargetQuestion(target_bytes=most), seconds=60)
    assert found.reached
    assert found.point.bytes <= most
    assert found.point.shape.eight_bits
    assert found.point.shape.ffn < 128
    free = answerer.answer(TargetQuestion(target_params=0.1), seconds=60)
    assert free.point.shape.eight_bits == (0, 1, 2), "bytes that are not asked for limit no bits"


@pytest.mark.parametrize("name", ["tpe", "nsga2", "rl"])
def test_other_searches_choose_bits_too_and_never_beat_the_solver(name: str) -> None:
    space = space_with(("ffn", "layers"), 0.5)
    asked = problem_of(space, [in_bytes(1.1)])
    trials = Trials(asked, SearchBudget(evaluations=60, seconds=300), solve=solver_for(space))
    found = searched(search_of(name), trials, seed=1)
    assert found.best is not None
    assert asked.allows(found.best.picks)
    assert found.best.error >= solver_for(space)(asked).error - 1e-9
    assert len({tuple(one.picks[f"bits {number}"] for number in range(3)) for one in found.tried}) > 1
