"""Several sizes from one set of tables: each contains the next, and costs the same share of the one before."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from math import prod

import pytest

from compression.models.architectures.families import NETWORK
from compression.models.architectures.network_shapes import multiply_adds, whole_shape
from compression.models.architectures.pruning_groups import axis_and_layer, units_at
from compression.models.architectures.shapes import parameters_at
from compression.planning.search import alike_layers, costs, nested
from compression.planning.search.alike_layers import solve_alike
from compression.planning.search.nested import nested_sizes
from compression.planning.search.problem import Choice, Limit, Picks, Problem, Term
from compression.planning.search.solver import solve
from compression.planning.search.space import Cost, SearchSpace
from compression.planning.search.spaces import space_of
from compression.planning.search.within import Found, solve_within
from compression.schema.error_tables import LayerErrors
from compression.schema.errors import UnsupportedShape
from compression.schema.report.measurements import Shape
from tests.compression.planning.search.test_spaces import (
    BERT,
    SHAPE,
    count,
    group,
    network,
    of_encoder,
    of_network,
    prune,
    tables,
)

AXES = ("hidden", "heads", "ffn", "layers")
WHOLE = count(SHAPE)


def sizes(share: float, number: int, axes: tuple[str, ...] = AXES, multiple: int = 8) -> tuple[SearchSpace, tuple[Found, ...]]:
    space = space_of(of_encoder(), BERT, SHAPE, prune(axes=axes, multiple=multiple))
    limit = costs.parameters(share * WHOLE, count)
    smallest = solve_within(space, [limit])
    return space, nested_sizes(space, of_encoder(), smallest, [limit], number, solve)


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


@pytest.mark.parametrize(("share", "number"), [(0.35, 2), (0.2, 3)])
def test_a_larger_size_errs_least_of_all_that_contain_the_smaller(share: float, number: int) -> None:
    space, found = sizes(share, number)
    cost, names = costs.parameters(WHOLE, count), [choice.name for choice in space.choices]
    problem = Problem(space.choices, space.error, ())
    every = [dict(zip(names, each, strict=True)) for each in product(*(range(one.options) for one in space.choices))]
    known = [picks for picks in every if space.layers(picks)]
    for place, (larger, smaller) in enumerate(pairwise(found), 1):
        most = WHOLE * (found[-1].costs["parameters"] / WHOLE) ** (place / number)
        of_smaller = [picks for picks in known if space.cost_of(cost, picks) <= most and is_in(space, smaller, picks)]
        assert len(of_smaller) > 2, "otherwise there is nothing to choose"
        assert larger.error == pytest.approx(min(map(problem.error_of, of_smaller)))


def is_in(space: SearchSpace, inner: Found, picks: Picks) -> bool:
    return contains(Found(space.shape(picks), space.layers(picks), 0.0, {}, picks), inner)


def test_layers_that_cost_alike_need_no_program_here_either(monkeypatch: pytest.MonkeyPatch) -> None:
    space, by_program = sizes(0.35, 3)
    names = [choice.name for choice in space.layer_choices]
    limit = costs.parameters(0.35 * WHOLE, count)
    monkeypatch.setattr(alike_layers, "solve", lambda *_: pytest.fail("a program was solved"))
    found = nested_sizes(space, of_encoder(), by_program[-1], [limit], 3, partial(solve_alike, layers=names))
    assert [one.picks for one in found] == [one.picks for one in by_program]


SCALES = (5, 1, 2, 3, 4, 6)
SIX = Shape(layers=6, hidden=64, heads=4, ffn=128, vocabulary=900)


def layers_alone(number: int) -> tuple[Found, ...]:
    """Sizes of six layers that lose whole layers alone; the first and the last are the most fragile."""
    errors = tables([], [LayerErrors(name=str(at), change=scale) for at, scale in enumerate(SCALES)])

    def of_shape(shape: Shape) -> int:
        return parameters_at(BERT, shape, rows=66, outputs=2).total

    space = space_of(errors, BERT, SIX, prune(axes=("layers",)))
    limit = costs.parameters(0.4 * of_shape(SIX), of_shape)
    names = [choice.name for choice in space.layer_choices]
    smallest = solve_within(space, [limit])
    assert len(smallest.layers) == 1
    return nested_sizes(space, errors, smallest, [limit], number, partial(solve_alike, layers=names))


@pytest.mark.parametrize(("number", "stay"), [(2, [2, 1]), (3, [3, 2, 1]), (4, [4, 3, 2, 1]), (5, [5, 4, 3, 2, 1])])
def test_a_step_without_room_takes_the_next_larger_size(number: int, stay: list[int]) -> None:
    found = layers_alone(number)
    assert [len(one.layers) for one in found] == stay
    for outer, inner in pairwise(found):
        assert {*inner.layers} < {*outer.layers}
    kept = {1: (5,), 2: (0, 5), 3: (0, 4, 5), 4: (0, 3, 4, 5), 5: (0, 2, 3, 4, 5)}  # of each number, what errs least
    assert [one.layers for one in found] == [kept[many] for many in stay]


def test_sizes_that_do_not_exist_are_refused_with_how_many_do() -> None:
    with pytest.raises(UnsupportedShape, match=r"points: 6 asks for 5 sizes between .*, and 4 were found") as caught:
        layers_alone(6)
    assert caught.value.param == "recipe.prune.points"
    assert "Set prune.points to at most 5" in caught.value.remedy_text
    with pytest.raises(UnsupportedShape, match="points: 6 asks for 5 sizes"):
        sizes(0.9, 6, ("ffn",), 64)


def test_between_sizes_that_both_lack_a_layer_is_what_lacks_it_too() -> None:
    inner, outer = layers_alone(5)[-1], layers_alone(5)[1]
    errors = tables([], [LayerErrors(name=str(at), change=scale) for at, scale in enumerate(SCALES)])
    space = space_of(errors, BERT, SIX, prune(axes=("layers",)))
    names = [choice.name for choice in space.layer_choices]
    limit = costs.parameters(outer.costs["parameters"] - 1, lambda shape: parameters_at(BERT, shape, rows=66, outputs=2).total)
    for each in (solve, partial(solve_alike, layers=names)):
        found = nested._between(space, errors, outer, inner, [limit], each)
        assert found is not None
        assert (outer.layers, found.layers, inner.layers) == ((0, 3, 4, 5), (0, 4, 5), (5,))


def test_sizes_of_a_network_have_a_width_for_each_group_and_contain_each_other() -> None:
    facts = network()
    whole, known = whole_shape(facts), of_network(facts)
    space = space_of(known, NETWORK, whole, prune(axes=("channels", "hidden")), facts)
    limits = [
        costs.parameters(0.5 * facts.parameters(), lambda shape: facts.parameters(shape.widths)),
        costs.multiply_adds(0.5 * facts.multiply_adds(), partial(multiply_adds, facts)),
    ]
    found = nested_sizes(space, known, solve_within(space, limits), limits, 6, solve)
    for larger, smaller in pairwise([Found(whole, (), 0.0, {}, {}), *found]):
        assert larger.shape != smaller.shape
        assert all(larger.shape.widths[key] >= width for key, width in smaller.shape.widths.items())
        assert larger.error < smaller.error


def test_a_network_of_few_groups_gets_the_same_sizes_without_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = network()
    known, axes = of_network(facts), ("channels", "hidden")
    space = space_of(known, NETWORK, whole_shape(facts), prune(axes=axes, multiple=1), facts)
    assert prod(choice.options for choice in space.choices) <= alike_layers.MOST_COMBINATIONS
    limit = costs.parameters(0.5 * facts.parameters(), lambda shape: facts.parameters(shape.widths))
    smallest = solve_within(space, [limit])
    by_program = nested_sizes(space, known, smallest, [limit], 3, solve)
    monkeypatch.setattr(alike_layers, "solve", lambda *_: pytest.fail("a program was solved"))
    assert solve_within(space, [limit], partial(solve_alike, layers=[])).picks == smallest.picks
    found = nested_sizes(space, known, smallest, [limit], 3, partial(solve_alike, layers=[]))
    assert [one.picks for one in found] == [one.picks for one in by_program]


@dataclass
class Line:
    """Widths of one axis, each with its cost, the whole one first; the narrower, the larger is the error."""

    spent: tuple[float, ...]
    layer_choices: tuple[Choice, ...] = ()
    structure: tuple[Limit, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        return (Choice("width", len(self.spent)),)

    @property
    def error(self) -> tuple[Term, ...]:
        return (Term(("width",), tuple(map(float, range(len(self.spent))))),)

    def limit(self, cost: Cost) -> Limit:
        return Limit(cost.name, cost.most, (Term(("width",), self.spent),))

    def cost_of(self, _: Cost, picks: Picks) -> float:
        return self.spent[picks["width"]]

    def shape(self, picks: Picks) -> Shape:
        return SHAPE.model_copy(update={"ffn": SHAPE.ffn - picks["width"]})

    def layers(self, _: Picks) -> tuple[int, ...]:
        return (0, 1, 2)

    def deepest(self) -> Iterator[Picks]:
        yield {"width": len(self.spent) - 1}


def test_where_steps_went_past_sizes_one_is_found_between_two_that_are_there() -> None:
    space, known = Line((100.0, 90.0, 12.0, 11.0, 10.5, 10.0)), tables([group("ffn.0", 128, 1.0)], [])
    cost = costs.parameters(10.0, count)

    def widths(number: int) -> list[int]:
        return [one.picks["width"] for one in nested_sizes(space, known, solve_within(space, [cost]), [cost], number, solve)]

    assert widths(3) == [1, 2, 5]
    assert widths(4) == [1, 2, 4, 5]  # 12 is within the first step, 90 the next larger, and no other is above it
    assert widths(5) == [1, 2, 3, 4, 5]
    with pytest.raises(UnsupportedShape, match="and 4 were found"):
        widths(6)
