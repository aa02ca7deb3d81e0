"""Several sizes from one set of tables: each contains the next, and costs the same share of the one before."""

import pytest

from compression.models.architectures.pruning_groups import axis_and_layer, units_at
from compression.planning.search import costs
from compression.planning.search.alike_layers import solve_alike
from compression.planning.search.nested import nested_sizes
from compression.planning.search.solver import solve
from compression.planning.search.space import SearchSpace
from compression.planning.search.spaces import space_of
from compression.planning.search.within import Found, solve_within
from compression.schema.errors import UnsupportedShape
from compression.schema.report.measurements import Shape
from tests.compression.planning.search.test_spaces import BERT, SHAPE, count, of_encoder, prune

AXES = ("hidden", "heads", "ffn", "layers")
WHOLE = count(SHAPE)


def sizes(share: float, number: int, axes: tuple[str, ...] = AXES, multiple: int = 8) -> tuple[SearchSpace, tuple[Found, ...]]:
    tables = of_encoder()
    space = space_of(tables, BERT, SHAPE, prune(axes=axes, multiple=multiple))
    limit = costs.parameters(share * WHOLE, count)
    smallest = solve_within(space, [limit])
    return space, nested_sizes(space, tables, smallest, [limit], number, solve)


def contains(outer: Found, inner: Found) -> bool:
    keys = [group.key for group in of_encoder().groups]

    def units(shape: Shape, key: str) -> int:
        return units_at(shape, *axis_and_layer(key))

    return {*inner.layers} <= {*outer.layers} and all(units(outer.shape, key) >= units(inner.shape, key) for key in keys)


@pytest.mark.parametrize("share", [0.2, 0.35])
def test_each_size_contains_the_next_and_is_within_its_share(share: float) -> None:
    _, found = sizes(share, 3)
    spent = [one.costs["parameters"] for one in found]
    assert WHOLE > spent[0] > spent[1] > spent[2]
    assert found[0].error < found[1].error < found[2].error
    for at in (1, 2):
        assert contains(found[at - 1], found[at])
        assert spent[at - 1] <= WHOLE * (spent[2] / WHOLE) ** (at / 3) * (1 + 1e-9)


def test_a_larger_size_errs_least_of_those_that_contain_the_smaller() -> None:
    space, (larger, smaller) = sizes(0.35, 2)
    most = WHOLE * (smaller.costs["parameters"] / WHOLE) ** 0.5
    alone = solve_within(space, [costs.parameters(most, count)])
    assert alone.error <= larger.error
    if contains(alone, smaller):
        assert larger.error == pytest.approx(alone.error)


def test_layers_that_cost_alike_need_no_program_here_either() -> None:
    space, by_program = sizes(0.35, 3)
    names = [choice.name for choice in space.layer_choices]
    limit = costs.parameters(0.35 * WHOLE, count)
    found = nested_sizes(space, of_encoder(), by_program[-1], [limit], 3, lambda problem: solve_alike(problem, names))
    assert [one.error for one in found] == pytest.approx([one.error for one in by_program])
    assert contains(found[0], found[1])
    assert contains(found[1], found[2])


def test_of_a_model_that_is_too_coarse_fewer_sizes_are_the_remedy() -> None:
    with pytest.raises(UnsupportedShape, match="fewer than 6 sizes between") as caught:
        sizes(0.9, 6, ("ffn",), 64)
    assert caught.value.param == "recipe.prune.points"
