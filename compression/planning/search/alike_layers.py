"""Solves the choice of widths and of layers that all cost alike, exactly, by going through all widths. Torch-free.

At given widths a limit says how many layers must go, and which ones these are follows from their errors alone: those whose
absence adds least. A mixed-integer program of the same takes up to a minute for 12 layers, this less than a second.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, product
from math import inf, isclose, prod

from compression.planning.search.problem import Limit, OutOfTime, Picks, Problem, Solution, Term
from compression.planning.search.solver import TIGHTER, out_of_reach, solve

MOST_COMBINATIONS = 20_000
"""Of widths that are gone through; a problem of more is solved as a program."""


def solve_alike(problem: Problem, layers: Sequence[str], until: float | None = None) -> Solution:
    """Return what errs least within all limits, as `solver.solve` does, with what it raises; it solves what this cannot.

    layers: names of the choices whether a layer stays (0) or goes (1).
    """
    widths = [choice.name for choice in problem.choices if choice.name not in {*layers}]
    if prod(problem.options[name] for name in widths) > MOST_COMBINATIONS:
        return solve(problem, until)
    sums = [_sum(terms, layers, problem.options) for terms in (problem.error, *(limit.terms for limit in problem.limits))]
    if not all(one is not None and (at == 0 or one.is_alike) for at, one in enumerate(sums)):
        return solve(problem, until)
    rows = _Rows(problem, widths, tuple(layers), [one for one in sums if one is not None], until)
    found = rows.best(problem.limits)
    if found is not None:
        solution = Solution(found, problem.error_of(found), problem.costs_of(found))
        return solution if problem.allows(found) else solve(problem, until)  # sums in another order may differ in a last digit
    over = rows.least_excess()
    if over == inf:
        return solve(problem, until)
    limits = [
        limit if limit.firm else replace(limit, most=max(limit.most, 1e-9) * over * (1 + TIGHTER)) for limit in problem.limits
    ]
    nearest = rows.best(limits)
    if nearest is None:
        return solve(problem, until)
    raise out_of_reach(problem, Solution(nearest, problem.error_of(nearest), problem.costs_of(nearest)))


Part = tuple[float, list[float], list[float]]
"""What is spent whatever layers go; and by layer what it adds if it stays, and if it goes."""


@dataclass(frozen=True)
class _Sum:
    """A sum of terms: by the width choices that it depends on, its parts at each combination of their options."""

    parts: Mapping[tuple[str, ...], list[Part]]

    @property
    def is_alike(self) -> bool:
        """Return whether all layers add the same."""
        each = (values for parts in self.parts.values() for _, *both in parts for values in both if values)
        return all(isclose(value, values[0], rel_tol=1e-9, abs_tol=1e-9) for values in each for value in values)

    def at(self, picks: Picks, options: Mapping[str, int]) -> Part:
        """Return the parts of this sum at widths."""
        found = []
        for names, parts in self.parts.items():
            place = 0
            for name in names:
                place = place * options[name] + picks[name]
            found.append(parts[place])
        stay, gone = ([sum(each) for each in zip(*(part[at] for part in found), strict=True)] for at in (1, 2))
        return sum(part[0] for part in found), stay, gone


def _sum(terms: Sequence[Term], layers: Sequence[str], options: Mapping[str, int]) -> _Sum | None:
    """Return a sum, or None if a term depends on several layers."""
    place = {name: at for at, name in enumerate(layers)}
    parts: dict[tuple[str, ...], list[Part]] = {(): [(0.0, [0.0] * len(layers), [0.0] * len(layers))]}
    for term in terms:
        own = [name for name in term.choices if name in place]
        if len(own) > 1 or (own and term.choices[-1] != own[0]):
            return None
        names = tuple(name for name in term.choices if name not in place)
        size = prod(options[name] for name in names)
        known = parts.setdefault(names, [(0.0, [0.0] * len(layers), [0.0] * len(layers)) for _ in range(size)])
        for at, (base, stay, gone) in enumerate(known):
            if own:
                stay[place[own[0]]] += term.values[2 * at]
                gone[place[own[0]]] += term.values[2 * at + 1]
            else:
                known[at] = base + term.values[at], stay, gone
    return _Sum(parts)


class _Rows:
    """At each combination of widths, by the number of layers that go: the least error, and what each limit then costs."""

    def __init__(
        self, problem: Problem, widths: Sequence[str], layers: Sequence[str], sums: Sequence[_Sum], until: float | None
    ) -> None:
        """until: as of `solve_alike`. Raises OutOfTime."""
        self.problem, self.layers = problem, layers
        error, *costs = sums
        self.rows: list[tuple[dict[str, int], list[int], list[float], list[list[float]]]] = []
        for options in product(*(range(problem.options[name]) for name in widths)):
            if until is not None and time.monotonic() > until:
                raise OutOfTime
            picks = dict(zip(widths, options, strict=True))
            base, stay, gone = error.at(picks, problem.options)
            if base == inf or inf in stay:
                continue
            added = [absent - present for absent, present in zip(gone, stay, strict=True)]
            order = sorted(range(len(layers)), key=added.__getitem__)
            errors = list(accumulate((added[at] for at in order), initial=base + sum(stay)))
            spent = [self._costs(cost.at(picks, problem.options)) for cost in costs]
            self.rows.append((picks, order, errors, spent))

    def _costs(self, part: Part) -> list[float]:
        base, stay, gone = part
        count = len(self.layers)
        each = (gone[0] - stay[0]) if count else 0.0
        return [base + sum(stay) + away * each for away in range(count + 1)]

    def best(self, limits: Sequence[Limit]) -> Picks | None:
        """Return what errs least within limits; None if nothing is within them."""
        least, found = inf, None
        for row in self.rows:
            for away, error in enumerate(row[2]):
                if error < least and all(
                    limit.fixed + cost[away] <= limit.most for limit, cost in zip(limits, row[3], strict=True)
                ):
                    least, found = error, (row, away)
        if found is None:
            return None
        (picks, order, _, _), away = found
        gone = {self.layers[at] for at in order[:away]}
        return {**picks, **{name: int(name in gone) for name in self.layers}}

    def least_excess(self) -> float:
        """Return the smallest share of the limits that anything costs; infinite if nothing keeps to the firm ones."""
        limits, least = self.problem.limits, inf
        for _, _, errors, spent in self.rows:
            for away in range(len(errors)):
                costs = [limit.fixed + cost[away] for limit, cost in zip(limits, spent, strict=True)]
                told = list(zip(limits, costs, strict=True))
                if all(cost <= limit.most for limit, cost in told if limit.firm):
                    least = min(
                        least, max((cost / max(limit.most, 1e-9) for limit, cost in told if not limit.firm), default=inf)
                    )
        return least
