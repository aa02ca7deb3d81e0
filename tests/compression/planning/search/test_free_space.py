"""Layers with feed-forward widths of their own: what they cost, what they err, and what a solver makes of them."""

import random
from functools import partial
from itertools import pairwise, product
from typing import Any

import pytest

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import check_axes
from compression.planning.device_times import ShapeTimes
from compression.planning.search import costs, pivot
from compression.planning.search.alike_layers import solve_alike
from compression.planning.search.costs import Sizes
from compression.planning.search.nested import nested_sizes
from compression.planning.search.pivot import pivot_of, solve_by_pivot
from compression.planning.search.problem import OutOfTime, Problem, Solution
from compression.planning.search.reach import blank_tables, check_reach
from compression.planning.search.solver import solve
from compression.planning.search.space import SearchSpace
from compression.planning.search.spaces import space_of
from compression.planning.search.within import solve_within
from compression.schema.error_tables import ErrorTables, LayerErrors
from compression.schema.errors import InvalidSpec, TargetOutOfReach, UnsupportedShape
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Parameters, Shape
from tests.compression.planning.search.test_spaces import BERT, SHAPE, count, group, of_encoder, problem_of, prune, tables
from tests.support.device_tables import made_table

AXES = ("hidden", "heads", "ffn"), ("ffn",), ("hidden", "heads", "ffn", "layers"), ("ffn", "layers")


def free(*axes: str, **settings: Any) -> SearchSpace:
    return space_of(of_encoder(), BERT, SHAPE, prune(axes=axes, free_widths=True, **settings))


def uniform(*axes: str) -> SearchSpace:
    return space_of(of_encoder(), BERT, SHAPE, prune(axes=axes))


def every(space: SearchSpace, step: int) -> Any:
    names = [choice.name for choice in space.choices]
    for number, each in enumerate(product(*(range(choice.options) for choice in space.choices))):
        picks = dict(zip(names, each, strict=True))
        if number % step == 0 and space.layers(picks):
            yield picks


def milliseconds(most: float) -> costs.Cost:
    times = ShapeTimes(made_table(), BERT, None, 32)
    found = costs.milliseconds(most, times, "dynamic-int8")
    assert found is not None
    return found


@pytest.mark.parametrize("axes", AXES)
def test_sums_are_what_each_shape_costs(axes: tuple[str, ...]) -> None:
    space = free(*axes)
    shapes = [costs.parameters(0.7 * count(SHAPE), count), milliseconds(1.0)]
    problem = problem_of(space, shapes)
    for picks in every(space, 997):
        shape, spent = space.shape(picks), problem.costs_of(picks)
        assert spent["parameters"] == pytest.approx(count(shape), abs=1e-3)
        assert spent["milliseconds"] == pytest.approx(shapes[1].of_shape(shape), rel=1e-9)


def test_a_shape_has_the_widths_that_were_picked_of_the_layers_that_stay() -> None:
    space = free("ffn", "layers")
    whole = {choice.name: 0 for choice in space.choices}
    assert space.shape(whole) == SHAPE
    found = space.shape({**whole, "ffn.0": 4, "ffn.2": 8, "layer 1": 1})
    assert (found.layers, found.ffns, found.ffn) == (2, (96, 64), 96)
    assert space.shape({**whole, "ffn.0": 4, "ffn.1": 4, "ffn.2": 4}).ffns is None


def test_the_error_of_a_layers_units_is_its_own() -> None:
    space = free("ffn")
    problem = Problem(space.choices, space.error, ())
    errors = [problem.error_of({"ffn.0": 0, "ffn.1": 0, "ffn.2": 0, f"ffn.{layer}": 8}) for layer in range(3)]
    assert errors == pytest.approx([3.0 / 4, 0.2 / 4, 1.0 / 4])


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("share", [0.8, 0.5])
def test_free_widths_err_no_more_than_uniform_ones_of_the_same_cost(axes: tuple[str, ...], share: float) -> None:
    limits = [costs.parameters(max(share, 0.7 if axes == ("ffn",) else 0) * count(SHAPE), count)]
    own, one = (solve_within(space, limits) for space in (free(*axes), uniform(*axes)))
    assert own.error <= one.error + 1e-12
    assert own.within(limits)
    if axes == ("ffn",):
        assert own.error < one.error
        assert own.shape.ffns is not None
        assert own.shape.ffns[0] > own.shape.ffns[1], "the fragile layer keeps more"


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("share", [0.75, 0.45, 0.05])
def test_option_by_option_comes_to_the_programs_solution(axes: tuple[str, ...], share: float) -> None:
    space = free(*axes)
    most = [costs.parameters(share * count(SHAPE), count), milliseconds(milliseconds(0.0).of_shape(SHAPE) * (0.3 + share / 2))]
    problem = problem_of(space, most)
    found_pivot = pivot_of(problem)
    assert (found_pivot is None) == (axes == ("ffn",)), "of which no number depends on two choices"
    assert found_pivot is None or found_pivot.name == ("hidden and heads" if "hidden" in axes else None)
    found = []
    for solver in (solve, solve_by_pivot):
        try:
            found.append(solver(problem).error)
        except TargetOutOfReach as missed:
            nearest: Any = missed.nearest
            found.append(max(nearest.costs[one.name] / one.most for one in most))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_a_nearest_point_is_told_though_time_is_over_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = list[int](), pivot.nearest

    def nearest(*given: Any) -> Solution:
        asked.append(1)
        if len(asked) > 1:
            raise OutOfTime("time is over")
        return plain(*given)

    monkeypatch.setattr(pivot, "nearest", nearest)
    problem = problem_of(free("hidden", "heads", "ffn", "layers"), [costs.parameters(1.0, count)])
    with pytest.raises(TargetOutOfReach) as missed:
        solve_by_pivot(problem)
    assert missed.value.nearest.costs["parameters"] > 1.0
    assert len(asked) == 2


def test_layers_with_widths_of_their_own_are_solved_option_by_option_if_they_are_many() -> None:
    """A space like a BERT-base's is too large to go through; what comes of it is proven all the same."""
    space = free("hidden", "heads", "ffn", "layers")
    problem = problem_of(space, [costs.parameters(0.5 * count(SHAPE), count)])
    layers = [choice.name for choice in space.layer_choices]
    assert solve_alike(problem, layers).error == pytest.approx(solve(problem).error, rel=1e-6)


def test_each_size_of_a_front_contains_the_next_layer_by_layer() -> None:
    space, made = free("ffn", "layers"), of_encoder()
    limits = [costs.parameters(0.6 * count(SHAPE), count)]
    sizes = nested_sizes(space, made, solve_within(space, limits), limits, 4, solve)
    assert len({(one.shape, one.layers) for one in sizes}) == 4
    for larger, smaller in pairwise(sizes):
        assert {*smaller.layers} <= {*larger.layers}
        each = [dict(zip(one.layers, one.shape.each_ffn, strict=True)) for one in (larger, smaller)]
        assert all(each[0][layer] >= units for layer, units in each[1].items())


def few_options(seed: int, multiple: int) -> tuple[SearchSpace, ErrorTables]:
    """Three layers that each have two or four widths or are gone, and errors by chance."""
    draw, groups, layers = random.Random(seed), [group("hidden", 64, 5.0)], []
    for name in "012":
        own = [group(f"{axis}.{name}", units, draw.choice([0.1, 0.5, 1, 3])) for axis, units in (("heads", 4), ("ffn", 128))]
        groups += own
        layers.append(LayerErrors(name=name, change=draw.choice([0.05, 0.3, 1, 2]), groups=tuple(one.key for one in own)))
    made = tables(groups, layers)
    return space_of(made, BERT, SHAPE, prune(axes=("ffn", "layers"), multiple=multiple, free_widths=True)), made


@pytest.mark.parametrize("multiple", [32, 64])
@pytest.mark.parametrize("points", [4, 5, 6])
def test_no_size_of_a_front_is_wider_than_the_one_before_where_options_are_few(points: int, multiple: int) -> None:
    """Then sizes are looked for between two that are there, of which the smaller one lacks a layer that the larger has."""
    found = 0
    for seed in range(8):
        space, made = few_options(seed, multiple)
        limits = [costs.parameters(0.5 * count(SHAPE), count)]
        solved = partial(solve_alike, layers=[choice.name for choice in space.layer_choices])
        try:
            sizes = nested_sizes(space, made, solve_within(space, limits, solved), limits, points, solved)
        except UnsupportedShape:  # of two widths there are too few for most fronts
            continue
        assert len({(one.shape, one.layers) for one in sizes}) == points
        each = [dict(zip(one.layers, one.shape.each_ffn, strict=True)) for one in sizes]
        assert all(larger[layer] >= units for larger, smaller in pairwise(each) for layer, units in smaller.items())
        found += 1
    assert found or (multiple, points) in [(64, 5), (64, 6)]


def test_blank_tables_name_each_layers_units_and_sizes_below_all_are_refused() -> None:
    def parts(shape: Shape) -> Parameters:
        return Parameters(total=count(shape), embedding=0, other=count(shape))

    settings = prune(axes=("ffn",), free_widths=True, target_params=0.9)
    assert {group.key for group in blank_tables(SHAPE, settings, None).groups} == {"ffn.0", "ffn.1", "ffn.2"}
    with pytest.raises(TargetOutOfReach):
        check_reach(BERT, SHAPE, settings, Sizes(parts))
    check_reach(BERT, SHAPE, settings.model_copy(update={"target_params": 0.2}), Sizes(parts))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_families_whose_files_state_one_width_are_refused_by_name(family: str) -> None:
    shape = Shape(layers=2, hidden=64, heads=4, ffn=128, vocabulary=100, groups=2)
    with pytest.raises(InvalidSpec, match=family) as refused:
        check_axes(ARCHITECTURE_SPECS[family], prune(axes=("ffn",), free_widths=True), shape)
    assert refused.value.param == "recipe.prune.free_widths"


@pytest.mark.parametrize("wrong", [{"search": None}, {"axes": ["heads", "hidden"]}])
def test_free_widths_need_a_search_and_units(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="free_widths"):
        Prune.model_validate({"search": "solver", "free_widths": True, **wrong})
