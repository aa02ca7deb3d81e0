"""Larger sizes that contain a smaller one: a front from one set of tables, each of which can be cut from the next larger.

The units of a group go in one order, and layers by name. So a size contains another if none of its groups is narrower and no
layer is gone that the other has. Torch-free.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from compression.models.architectures.pruning_groups import units_left
from compression.planning.search.problem import Limit, NoCombination, Picks, Problem, Solution, Solve, Term, exclusion
from compression.planning.search.space import GOES, Cost, SearchSpace, choice_of
from compression.planning.search.within import Found, solve_within
from compression.schema.error_tables import ErrorTables
from compression.schema.errors import TargetOutOfReach, UnsupportedShape
from compression.schema.report.measurements import Shape

WHOLE = 0  #: the first option of each choice


def nested_sizes(
    space: SearchSpace, tables: ErrorTables, smallest: Found, costs: Sequence[Cost], count: int, solve: Solve
) -> tuple[Found, ...]:
    """Return sizes that err least, the largest first and the given one last: of each cost, each has the same share of the next
    larger, and that of the uncut model. costs: by which the smallest was found, and whose limits are not read.

    Where no size lies within such a step, the next one is the cheapest that is larger; if there is none before the uncut model,
    one between two sizes that are there. Raises UnsupportedShape if there is none either, and what `solve` raises.
    """
    smallest = replace(smallest, picks=_settled(space, tables, smallest.picks))
    picks = {choice.name: WHOLE for choice in space.choices}
    spent = {cost.name: space.cost_of(cost, picks) for cost in costs}
    whole = Found(space.shape(picks), space.layers(picks), 0.0, spent, picks)
    found = [whole, smallest]

    def step(at: int) -> float:
        return max(found[at].costs[cost.name] / (found[at + 1].costs[cost.name] or 1.0) for cost in costs)

    for number in range(count - 1, 0, -1):
        within = sorted(range(1, len(found) - 1), key=step, reverse=True)
        gaps = [(0, _limits(costs, whole, smallest, number / count))]
        gaps += [(at, _limits(costs, found[at], found[at + 1], 0.5)) for at in within]
        for at, limits in gaps:
            if (one := _between(space, tables, found[at], found[at + 1], limits, solve)) is not None:
                found.insert(at + 1, one)
                break
        else:
            asked = f"points: {count} asks for {count - 1} sizes between {smallest.shape.short} and the uncut model"
            cause = f"{asked}, each of which contains the next, and {len(found) - 2} were found"
            remedy = f"Set prune.points to at most {len(found) - 1}, cut deeper, or choose a smaller prune.multiple."
            raise UnsupportedShape(cause, param="recipe.prune.points", remedy=remedy)
    return tuple(found[1:])


def _limits(costs: Sequence[Cost], larger: Found, smaller: Found, share: float) -> list[Cost]:
    """Return limits between two sizes, on a scale of factors. share: of the way to the smaller one."""
    ends = ((cost, larger.costs[cost.name], smaller.costs[cost.name]) for cost in costs)
    return [replace(cost, most=most * (least / most) ** share if most > 0 else least) for cost, most, least in ends]


def _between(
    space: SearchSpace, tables: ErrorTables, outer: Found, inner: Found, limits: Sequence[Cost], solve: Solve
) -> Found | None:
    """Return what errs least within limits, or else is nearest to them, of what contains one size and is in another.

    None if there is nothing beside these two.
    """
    terms = tuple(_terms(space, tables, outer, inner))
    ends = _ties(space, tables, outer)
    ends += [exclusion(name, space.choices, one.picks) for name, one in (("outer", outer), ("inner", inner))]

    def solved(problem: Problem) -> Solution:
        return solve(replace(problem, error=(*problem.error, *terms), limits=(*ends, *problem.limits)))

    try:
        return solve_within(space, limits, solved)
    except NoCombination:
        return None
    except TargetOutOfReach as problem:
        if not isinstance(problem.nearest, Found):
            raise
        return problem.nearest


def _of_layers(space: SearchSpace, tables: ErrorTables) -> Iterator[tuple[str, str, int]]:
    """Yield the choices that are of a layer which may go, each with the layer's choice and how many options it has."""
    options = {choice.name: choice.options for choice in space.choices}
    for layer in tables.layers:
        if choice_of(layer) in options:
            yield from ((key, choice_of(layer), options[key]) for key in layer.groups if key in options)


def _settled(space: SearchSpace, tables: ErrorTables, picks: Picks) -> Picks:
    """Return picks with the first option of what is of layers that go: their widths are none, so all options are one size."""
    return {**picks, **{key: WHOLE for key, layer, _ in _of_layers(space, tables) if picks[layer] == GOES}}


def _ties(space: SearchSpace, tables: ErrorTables, outer: Found) -> list[Limit]:
    """Return the limit that what is of a layer is no wider than in the outer size if the layer stays, `_settled` if it goes,
    so that no size is found twice.
    """
    terms = []
    for key, layer, options in _of_layers(space, tables):
        excess = [(float(option < outer.picks[key]), float(option != WHOLE)) for option in range(options)]
        terms.append(Term((key, layer), tuple(value for both in excess for value in both)))
    return [Limit("widths of layers", 0.0, tuple(terms), firm=True)] if terms else []


def _terms(space: SearchSpace, tables: ErrorTables, outer: Found, inner: Found) -> Iterator[Term]:
    """Yield an infinite error for each option without which a size is between two others."""
    gone = {key for at, layer in enumerate(tables.layers) if at not in inner.layers for key in layer.groups}
    keys = [group.key for group in tables.groups if group.key not in gone]
    of_layers = {choice.name for choice in space.layer_choices}

    def contains(one: Shape, other: Shape, layers: Sequence[int], others: Sequence[int]) -> bool:
        return all(units_left(one, key, layers) >= units_left(other, key, others) for key in keys)

    for choice in space.choices:
        ends = (outer.picks[choice.name], inner.picks[choice.name])
        allowed = [option in ends for option in range(choice.options)]
        for option in range(choice.options if choice.name not in of_layers else 0):
            with suppress(UnsupportedShape):  # the config does not have this width beside the outer size's others
                shape = space.shape({**outer.picks, choice.name: option})
                within = contains(shape, inner.shape, outer.layers, inner.layers)
                within = within and contains(outer.shape, shape, outer.layers, outer.layers)
                allowed[option] = allowed[option] or within
        yield Term((choice.name,), tuple(0.0 if each else float("inf") for each in allowed))
