"""Larger sizes that contain a smaller one: a front from one set of tables, each of which can be cut from the next larger.

The units of a group go in one order, and layers by name. So a size contains another if none of its groups is narrower and no
layer is gone that the other has. Torch-free.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from compression.models.architectures.pruning_groups import axis_and_layer, units_at
from compression.planning.search.problem import Problem, Solution, Solve, Term
from compression.planning.search.space import STAYS, Cost, SearchSpace
from compression.planning.search.within import Found, solve_within
from compression.schema.error_tables import ErrorTables
from compression.schema.errors import UnsupportedShape
from compression.schema.report.measurements import Shape

WHOLE = 0  #: the first option of each choice


def nested_sizes(
    space: SearchSpace, tables: ErrorTables, smallest: Found, costs: Sequence[Cost], count: int, solve: Solve
) -> tuple[Found, ...]:
    """Return sizes that err least, the largest first and the given one last: of each cost, each has the same share of the next
    larger, and that of the uncut model. costs: by which the smallest was found, and whose limits are not read.

    Raises UnsupportedShape if there are not so many sizes between the smallest and the uncut model, and what `solve` raises.
    """
    uncut = {choice.name: WHOLE for choice in space.choices}
    found = [smallest]
    for number in range(count - 1, 0, -1):
        limits = []
        for cost in costs:
            whole, least = space.cost_of(cost, uncut), smallest.costs[cost.name]
            limits.append(replace(cost, most=whole * (least / whole) ** (number / count) if whole > 0 else least))
        larger = solve_within(space, limits, _containing(space, tables, found[0], solve))
        if larger.shape == found[0].shape and larger.layers == found[0].layers:
            cause = f"there are fewer than {count} sizes between {smallest.shape.short} and the uncut model"
            remedy = "Ask for fewer points, a smaller target or a smaller prune.multiple."
            raise UnsupportedShape(cause, param="recipe.prune.points", remedy=remedy)
        found.insert(0, larger)
    return tuple(found)


def _containing(space: SearchSpace, tables: ErrorTables, inner: Found, solve: Solve) -> Solve:
    """Return what solves among the sizes that contain another one."""
    terms = tuple(_terms(space, tables, inner))

    def solved(problem: Problem) -> Solution:
        return solve(replace(problem, error=(*problem.error, *terms)))

    return solved


def _terms(space: SearchSpace, tables: ErrorTables, inner: Found) -> Iterator[Term]:
    """Yield an infinite error for each option without which another size has more."""
    gone = {key for at, layer in enumerate(tables.layers) if at not in inner.layers for key in layer.groups}
    keys = [group.key for group in tables.groups if group.key not in gone]
    of_layers = {choice.name for choice in space.layer_choices}
    uncut = {choice.name: WHOLE for choice in space.choices}

    def contains(shape: Shape) -> bool:
        return all(units_at(shape, *axis_and_layer(key)) >= units_at(inner.shape, *axis_and_layer(key)) for key in keys)

    for choice in space.choices:
        allowed = [option in (WHOLE, inner.picks[choice.name]) for option in range(choice.options)]
        if choice.name in of_layers:
            allowed = [option == STAYS or inner.picks[choice.name] != STAYS for option in range(choice.options)]
        else:
            for option in range(choice.options):
                with suppress(UnsupportedShape):  # the config does not have this width beside the whole others
                    allowed[option] = allowed[option] or contains(space.shape({**uncut, choice.name: option}))
        yield Term((choice.name,), tuple(0.0 if each else float("inf") for each in allowed))
