"""Solves a choice on which all others depend by going through its options: with each, a small program is left. Torch-free.

If each layer of a transformer has a width of its own, what a layer costs depends on the stream's width, too. As one program of
products that takes up to half a minute for a BERT-base whose layers may go; option by option a second. What is found is as
exact as a program's.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import inf
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from compression.planning.search.problem import Choice, NoCombination, OutOfTime, Problem, Solution, Term
from compression.planning.search.solver import GAP, SECONDS, TIGHTER, nearest, out_of_reach, solve, unit_of
from compression.schema.errors import TargetOutOfReach

Numbers = NDArray[np.float64]
MOST_OPTIONS = 32
"""Of the choice that is gone through: each option is a program."""
TOGETHER = 2
"""Choices that may depend on each other without it: a width and whether its layer stays."""
PRICES, SEARCHES, LEAST_PRICE = 40, 2, 1e-4
"""Prices that a bound looks at, evenly in their logarithm; how often it looks, each time beside the best of the last time; and
the least, of a whole limit as a share of what all may err."""


@dataclass(frozen=True)
class Pivot:
    """A choice on which all others depend, and those of them that depend on each other too."""

    name: str | None  #: None if the others depend on no further one
    pairs: tuple[tuple[str, ...], ...]  #: every other choice once, alone or with the one that it depends on

    def taken(self, option: int) -> dict[str, int]:
        """Return the pick of an option."""
        return {} if self.name is None else {self.name: option}


def pivot_of(problem: Problem) -> Pivot | None:
    """Return the choice without which the others depend on each other at most in pairs; None if there is none, or no need."""
    links: dict[str, set[str]] = {choice.name: set() for choice in problem.choices}
    for term in (*problem.error, *(term for limit in problem.limits for term in limit.terms)):
        for one in term.choices:
            links[one] |= {*term.choices} - {one}
    most = max(links, key=lambda one: len(links[one]), default=None)
    if most is None or not links[most]:
        return None
    name = most if len(links[most]) >= TOGETHER else None
    if name is not None and problem.options[name] > MOST_OPTIONS:
        return None
    rest = {one: {one, *others} - {name} for one, others in links.items() if one != name}
    if any(len(pair) > TOGETHER for pair in rest.values()):
        return None
    order = [choice.name for choice in problem.choices]
    return Pivot(name, tuple(dict.fromkeys(tuple(sorted(pair, key=order.index)) for pair in rest.values())))


def solve_by_pivot(problem: Problem, until: float | None = None) -> Solution:
    """Return what errs least within all limits, as `solver.solve` does, with what it raises; without a pivot it does solve.

    until: end of the time, by time.monotonic; None: SECONDS from now.
    """
    pivot = pivot_of(problem)
    if pivot is None:
        return solve(problem, until)
    options = 1 if pivot.name is None else problem.options[pivot.name]
    parts = {option: _part(problem, pivot, option) for option in range(options)}
    end, gap = (time.monotonic() + SECONDS, 0.0) if until is None else (until, GAP)
    tried = _Tried(problem, pivot, parts)
    for option in tried.order:
        if tried.best is not None and tried.bounds[option] >= tried.best.error:
            return tried.best  # no option after it errs less
        if time.monotonic() > end:
            return tried.unproven(option)
        try:
            tried.add(option, solve(parts[option], end, gap))
        except (TargetOutOfReach, NoCombination):
            continue
        except OutOfTime:
            return tried.unproven(option)
    return tried.best if tried.best is not None else _nearest(tried, end)


@dataclass
class _Tried:
    """What was found with each option of a pivot."""

    problem: Problem
    pivot: Pivot
    parts: Mapping[int, Problem]  #: by option, the choice among the pairs that it leaves
    best: Solution | None = None

    @cached_property
    def bounds(self) -> Mapping[int, float]:
        """Return the error that each option has at least."""
        return {option: _least_error(part) for option, part in self.parts.items()}

    @cached_property
    def order(self) -> list[int]:
        """Return the options that may be within the limits, those with the least bound first."""
        return sorted(filter(self._may_do, self.parts), key=self.bounds.__getitem__)

    def _may_do(self, option: int) -> bool:
        least = (limit.fixed + sum(min(term.values) for term in limit.terms) for limit in self.parts[option].limits)
        within = all(cost <= limit.most for cost, limit in zip(least, self.problem.limits, strict=True))
        return within and self.bounds[option] < inf

    def add(self, option: int, found: Solution) -> None:
        """Keep the solution with an option if it errs least so far."""
        own = self.whole(option, found)
        if self.best is None or own.error < self.best.error:
            self.best = own

    def whole(self, option: int, found: Solution) -> Solution:
        """Return the solution of an option's program as one of the problem."""
        picks = self.pivot.taken(option)
        for pair in self.pivot.pairs:
            sizes = [self.problem.options[name] for name in pair]
            places = _places(found.picks[" & ".join(pair)], sizes)
            picks |= dict(zip(pair, places, strict=True))
        return replace(found, picks=picks, error=self.problem.error_of(picks), costs=self.problem.costs_of(picks))

    def unproven(self, option: int) -> Solution:
        """Return the best so far if time is over before an option. Raises OutOfTime if there is none."""
        if self.best is None:
            raise OutOfTime
        gap = max(1 - self.bounds[option] / self.best.error, self.best.gap) if self.best.error > 0 else 0.0
        return replace(self.best, proven=False, gap=gap)


def _part(problem: Problem, pivot: Pivot, option: int) -> Problem:
    """Return the problem with an option of the pivot taken: one choice for each pair, so that no number depends on two.

    Of options of a pair that are alike in every sum, such as the widths of a layer that goes, only the first exists.
    """
    of_pair = {name: pair for pair in pivot.pairs for name in pair}
    combinations = {
        pair: [dict(zip(pair, each, strict=True)) for each in product(*(range(problem.options[name]) for name in pair))]
        for pair in pivot.pairs
    }

    def summed(terms: Iterable[Term]) -> tuple[dict[tuple[str, ...], list[float]], float]:
        sums, fixed = {pair: [0.0] * len(each) for pair, each in combinations.items()}, 0.0
        for term in terms:
            pair = next((of_pair[name] for name in term.choices if name != pivot.name), None)
            if pair is None:
                fixed += term.at(pivot.taken(option), problem.options)
                continue
            for at, picks in enumerate(combinations[pair]):
                sums[pair][at] += term.at({**picks, **pivot.taken(option)}, problem.options)
        return sums, fixed

    errors, base = summed(problem.error)
    costs = [(limit, *summed(limit.terms)) for limit in problem.limits]
    for pair, own in errors.items():
        seen = set[tuple[float, ...]]()
        for at, error in enumerate(own):
            found = (error, *(sums[pair][at] for _, sums, _ in costs))
            own[at] = inf if found in seen else error
            seen.add(found)
    choices = [Choice(" & ".join(pair), len(each)) for pair, each in combinations.items()]
    terms = [*_terms(errors), *([Term((choices[0].name,), (base,) * choices[0].options)] if base else [])]
    limits = (replace(limit, terms=_terms(sums), fixed=limit.fixed + fixed) for limit, sums, fixed in costs)
    return Problem(tuple(choices), tuple(terms), tuple(limits))


def _least_error(part: Problem) -> float:
    """Return what no choice within the limits errs less than: of each limit alone, the best bound by a price of its cost.

    part: numbers depend on one choice each. At any price the least of error and price × cost, choice by choice, less the price
    of the limit, is such a bound (Lagrange).
    """
    errors = _table(part, part.error)
    found = float(errors.min(axis=1).sum())
    scale = float(np.where(np.isfinite(errors), errors, 0.0).max(axis=1).sum())
    for limit in part.limits:
        if limit.excludes is not None or not scale:
            continue
        unit = unit_of(limit)
        costs, most = _table(part, limit.terms) / unit, (limit.most - limit.fixed) / unit
        low, high = scale * LEAST_PRICE, scale / LEAST_PRICE
        for _ in range(SEARCHES):
            prices = np.geomspace(low, high, PRICES)
            bounds = [float((errors + price * costs).min(axis=1).sum() - price * most) for price in prices]
            at = int(np.argmax(bounds))
            found = max(found, bounds[at])
            low, high = prices[max(at - 1, 0)], prices[min(at + 1, PRICES - 1)]
    return found


def _table(part: Problem, terms: Iterable[Term]) -> Numbers:
    """Return the sums of terms by choice and option, (choices, most options); infinite behind a choice's last option."""
    place = {choice.name: at for at, choice in enumerate(part.choices)}
    found = np.full((len(place), max(choice.options for choice in part.choices)), np.inf)
    for choice in part.choices:
        found[place[choice.name], : choice.options] = 0.0
    for term in terms:
        found[place[term.choices[0]], : len(term.values)] += term.values
    return found


def _terms(sums: Mapping[tuple[str, ...], Sequence[float]]) -> tuple[Term, ...]:
    return tuple(Term((" & ".join(pair),), tuple(values)) for pair, values in sums.items())


def _places(place: int, sizes: Sequence[int]) -> list[int]:
    """Return the option of each choice of a combination, numbered as those of a `Term`."""
    found = list[int]()
    for size in reversed(sizes):
        place, own = divmod(place, size)
        found.insert(0, own)
    return found


def _nearest(tried: _Tried, end: float) -> NoReturn:
    """Raise TargetOutOfReach with what exceeds the limits by the smallest share, and errs least of such; or NoCombination."""
    problem, found = tried.problem, list[Solution]()
    for option, part in tried.parts.items():
        if tried.bounds[option] < inf:
            try:
                found.append(tried.whole(option, nearest(part, end)))
            except NoCombination:
                continue
            except OutOfTime:
                if not found:
                    raise
                break
    if not found:
        raise NoCombination("no combination of the options exists")

    def over(one: Solution) -> float:
        return max((one.costs[each.name] - each.most) / unit_of(each) for each in problem.limits if not each.firm)

    least = min(map(over, found))
    alike = [one for one in found if over(one) <= least + TIGHTER * (1 + abs(least))]
    raise out_of_reach(problem, min(alike, key=lambda one: one.error))
