"""Solves a search space within targets. A cost that is no exact sum is checked, and its limit tightened until it holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from compression.planning.search.problem import Picks, Problem, Solution
from compression.planning.search.solver import solve
from compression.planning.search.space import Cost, SearchSpace
from compression.schema.errors import TargetOutOfReach
from compression.schema.report.measurements import Shape

ROUNDS = 8
"""Solutions that are checked. Parameters and multiply-adds are exact sums; times of layers that read several groups are not."""


@dataclass(frozen=True)
class Found:
    """Widths that a solver has chosen."""

    shape: Shape
    layers: tuple[int, ...]  #: numbers of the layers, or blocks, that stay
    error: float  #: predicted, summed over the layers
    costs: Mapping[str, float]  #: as they are, not as sums
    picks: Picks
    proven: bool = True  #: whether no other choice errs less, as sums count the costs


Solve = Callable[[Problem], Solution]
"""Returns what errs little within all limits. Raises TargetOutOfReach with the nearest solution."""


def solve_within(space: SearchSpace, costs: Sequence[Cost], solve: Solve = solve) -> Found:
    """Return what errs least within all costs' limits.

    solve: the search that chooses; by default the solver, without a limit of time. Raises TargetOutOfReach, whose `nearest` is
    what comes nearest, and what the search raises.
    """
    limits = {cost.name: space.limit(cost) for cost in costs}
    problem = Problem(space.choices, space.error, ())
    for _ in range(ROUNDS):
        asked = replace(problem, limits=(*space.structure, *limits.values()))
        try:
            solved = solve(asked)
        except TargetOutOfReach as problem_found:
            nearest = problem_found.nearest
            found = _found(space, problem, costs, nearest)  # type: ignore[arg-type]
            raise TargetOutOfReach(problem_found.cause, nearest=found) from problem_found
        found = _found(space, problem, costs, solved)
        over = {cost.name: found.costs[cost.name] / max(cost.most, 1e-9) for cost in costs}
        if all(share <= 1 for share in over.values()):
            return found
        for cost in costs:
            if over[cost.name] > 1:
                limit = limits[cost.name]
                limits[cost.name] = replace(limit, most=limit.most / over[cost.name])
    raise TargetOutOfReach("the targets cannot be met exactly; the nearest point is close to them", nearest=found)


def _found(space: SearchSpace, problem: Problem, costs: Sequence[Cost], solved: Solution) -> Found:
    picks = solved.picks
    actual = {cost.name: space.cost_of(cost, picks) for cost in costs}
    return Found(space.shape(picks), space.layers(picks), problem.error_of(picks), actual, picks, solved.proven)
