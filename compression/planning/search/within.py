"""Solves a search space within targets. What a solver returns is checked at its real costs, which sums may only approximate.

Where sums are the costs, the first answer stands. Else a limit is tightened by as much as a cost was above it. If that leaves
nothing, the solver goes on from the limits as asked, without what was tried, and with those loosened that sums overcount.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from compression.planning.search.problem import (
    Limit,
    NoCombination,
    OutOfTime,
    Picks,
    Problem,
    Solution,
    Solve,
    exclusion,
    out_of_reach_cause,
)
from compression.planning.search.solver import solve
from compression.planning.search.space import ROUNDED, Cost, SearchSpace
from compression.schema.errors import TargetOutOfReach
from compression.schema.report.measurements import Shape

ROUNDS = 16
"""Solutions that are checked, at most."""
LAST_DIGITS = 1e-12
"""Share of a cost by which the order of its sums may change it. Of whole numbers below 1e12 it is no difference."""


@dataclass(frozen=True)
class Found:
    """Widths that a solver has chosen."""

    shape: Shape
    layers: tuple[int, ...]  #: numbers of the layers, or blocks, that stay
    error: float  #: predicted, summed over the layers
    costs: Mapping[str, float]  #: as they are, not as sums
    picks: Picks
    proven: bool = True  #: whether no other choice errs less, as sums count the costs
    gap: float = 0.0  #: if the solver's time was over: the share of the error by which another may err less, at most

    def within(self, costs: Sequence[Cost]) -> bool:
        """Return whether no cost is above its limit."""
        return all(self.costs[cost.name] <= _eased(cost.most) for cost in costs)


def solve_within(space: SearchSpace, costs: Sequence[Cost], solve: Solve = solve) -> Found:
    """Return what errs least within all costs' limits.

    solve: the search that chooses; by default the solver, with its own limit of time. Raises TargetOutOfReach, whose `nearest`
    is what comes nearest, OutOfTime if nothing was found before, and what the search raises.
    """
    limits = (space.limit(cost) for cost in costs)
    rounds = _Rounds(space, costs, {limit.name: replace(limit, most=_eased(limit.most)) for limit in limits})
    for _ in range(ROUNDS):
        try:
            solved, reached = solve(rounds.problem()), True
        except TargetOutOfReach as problem:
            solved, reached = cast(Solution, problem.nearest), False
        except (NoCombination, OutOfTime) as problem:  # of the first, nothing else is left
            if not rounds.tried:
                raise
            return rounds.best(proven=False, all_tried=isinstance(problem, NoCombination))
        found = rounds.check(solved)
        if reached and found.within(costs):
            return rounds.best(proven=found.proven and rounds.as_asked)
        if not (rounds.tighten(found) if reached else rounds.widen(solved, found)):
            return rounds.best(proven=False, all_tried=not rounds.loosened)
    return rounds.best(proven=False)


@dataclass
class _Rounds:
    """The limits of the next round, and what the earlier ones found."""

    space: SearchSpace
    costs: Sequence[Cost]
    limits: dict[str, Limit]
    tried: list[Found] = field(default_factory=list)
    tightens: bool = True  #: until that leaves nothing

    def __post_init__(self) -> None:
        self.asked = {name: limit.most for name, limit in self.limits.items()}  #: the targets
        self.most = dict(self.asked)  #: of each limit, if it is not tightened
        self.plain = Problem(self.space.choices, self.space.error, ())

    @property
    def as_asked(self) -> bool:
        """Return whether the limits of the round are the targets."""
        return all(limit.most == self.asked[name] for name, limit in self.limits.items())

    @property
    def loosened(self) -> bool:
        """Return whether the sum of a cost is known to overcount it: then more may be within the targets than sums say."""
        return self.most != self.asked

    def problem(self) -> Problem:
        """Return the problem of the round: what was tried is no part of it."""
        excluded = (exclusion(f"tried {at}", self.plain.choices, found.picks) for at, found in enumerate(self.tried))
        return replace(self.plain, limits=(*self.space.structure, *excluded, *self.limits.values()))

    def check(self, solved: Solution) -> Found:
        """Return what was solved, at its real costs."""
        picks = solved.picks
        real = {cost.name: self.space.cost_of(cost, picks) for cost in self.costs}
        shape, layers, error = self.space.shape(picks), self.space.layers(picks), self.plain.error_of(picks)
        found = Found(shape, layers, error, real, picks, solved.proven, solved.gap)
        self.tried.append(found)
        return found

    def tighten(self, found: Found) -> bool:
        """Tighten the limits by as much as the costs of what was found are above the targets."""
        for cost in self.costs:
            if self.tightens and found.costs[cost.name] > _eased(cost.most) > 0:
                limit = self.limits[cost.name]
                self.limits[cost.name] = replace(limit, most=limit.most * cost.most / found.costs[cost.name])
        return True

    def widen(self, solved: Solution, found: Found) -> bool:
        """Take back what was tightened, and loosen limits whose sums overcount; return whether that changed any limit."""
        self.tightens = False
        for cost in self.costs:
            real = found.costs[cost.name]
            if 0 < real < solved.costs[cost.name] * (1 - ROUNDED):
                self.most[cost.name] = max(self.most[cost.name], self.asked[cost.name] * solved.costs[cost.name] / real)
        before = self.limits
        self.limits = {name: replace(limit, most=self.most[name]) for name, limit in before.items()}
        return self.limits != before

    def best(self, *, proven: bool, all_tried: bool = False) -> Found:
        """Return what errs least of what was found within the targets. Raises TargetOutOfReach with what comes nearest.

        proven: whether nothing errs less; all_tried: whether there is nothing else within the targets.
        """
        if within := [found for found in self.tried if found.within(self.costs)]:
            return replace(min(within, key=lambda found: found.error), proven=proven)

        def over(found: Found) -> float:
            return max((found.costs[cost.name] - cost.most) / (abs(cost.most) or 1.0) for cost in self.costs)

        least = min(map(over, self.tried))
        alike = [found for found in self.tried if over(found) <= least + ROUNDED * (1 + abs(least))]
        nearest = min(alike, key=lambda found: found.error)
        verdict = "cannot be reached" if all_tried else f"is met by none of the {len(self.tried)} cuts that were looked at"
        asked = {cost.name: cost.most for cost in self.costs}
        cause = out_of_reach_cause(asked, nearest.costs, shape=nearest.shape.short, verdict=verdict)
        key = next(cost.key for cost in self.costs if nearest.costs[cost.name] > cost.most)
        raise TargetOutOfReach(cause, nearest=nearest, proven=all_tried, param=f"recipe.prune.{key}" if key else None)


def _eased(most: float) -> float:
    """Return a limit that a cost is not above by its last digits alone."""
    return most + LAST_DIGITS * abs(most)
