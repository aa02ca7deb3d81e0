"""Which options can still be taken so that the rest can be chosen within all limits. Torch-free.

As AMC bounds its actions (He et al. 2018), an option is open if what comes after it can still be made cheap enough. The
cheapest rest answers that for nearly all options, because what costs least in sum mostly costs least in each limit; else the
solver does.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import inf

from compression.planning.search.problem import Choice, Limit, Picks, Problem, Solve, Term
from compression.planning.search.solver import solve
from compression.schema.errors import TargetOutOfReach

REMEMBERED = 50_000
"""Answers of the solver that are kept."""


class Completions:
    """The ways in which picks can be completed."""

    def __init__(self, problem: Problem, solve: Solve = solve) -> None:
        """solve: the exact solver. Raises TargetOutOfReach if nothing is within the limits."""
        self.problem = problem
        self.order = [choice.name for choice in problem.choices]
        self.cheapest = _cheapest(problem, solve)  #: what costs least, each limit's cost as a share of it, within all limits
        self._known: dict[tuple[int, ...], Picks | None] = {}

    def completed(self, taken: Picks, rest: Picks | None = None) -> Picks | None:
        """Return picks within all limits that begin with what is taken, the first of the choices in their order; None if there
        are none. rest: what is tried first for the others.
        """
        for way in (self.cheapest, rest):
            if way is not None and self.problem.allows(found := {**way, **taken}):
                return found
        key = tuple(taken[name] for name in self.order[: len(taken)])
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = self._solved(taken)
        return self._known[key]

    def nearest_option(self, taken: Picks, choice: Choice, wanted: float, rest: Picks) -> tuple[int, Picks]:
        """Return the option of a choice that is nearest to `wanted` of those with which the limits can be met, and picks that
        meet them. rest: picks that begin with what is taken and meet them.
        """
        for option in sorted(range(choice.options), key=lambda option: (abs(option - wanted), option)):
            found = self.completed({**taken, choice.name: option}, rest)
            if found is not None:
                return option, found
        raise AssertionError("the rest itself has an option that can be completed")

    def _solved(self, taken: Picks) -> Picks | None:
        smaller = fixed_to(self.problem, taken)
        if any(_least(limit) > limit.most for limit in smaller.limits):
            return None
        try:
            return {**_cheapest(smaller), **taken}
        except (TargetOutOfReach, ValueError):
            return None


def fixed_to(problem: Problem, taken: Picks) -> Problem:
    """Return the problem whose choices that are taken have this one option."""
    options = problem.options

    def kept(name: str) -> range:
        return range(taken[name], taken[name] + 1) if name in taken else range(options[name])

    def sliced(term: Term) -> Term:
        combinations = product(*(kept(name) for name in term.choices))
        values = (term.at(dict(zip(term.choices, each, strict=True)), options) for each in combinations)
        return replace(term, values=tuple(values))

    limits = (replace(limit, terms=tuple(map(sliced, limit.terms))) for limit in problem.limits)
    choices = (replace(choice, options=len(kept(choice.name))) for choice in problem.choices)
    return Problem(tuple(choices), tuple(map(sliced, problem.error)), tuple(limits))


def _cheapest(problem: Problem, solve: Solve = solve) -> Picks:
    """Return what costs least within all limits, the costs as shares of the limits added. Raises TargetOutOfReach."""
    exists = (replace(term, values=tuple(inf if value == inf else 0.0 for value in term.values)) for term in problem.error)
    return solve(replace(problem, error=(*exists, *_shares(problem)))).picks


def _shares(problem: Problem) -> Iterator[Term]:
    for limit in problem.limits:
        unit = max(abs(limit.most), 1e-9)
        yield from (replace(term, values=tuple(value / unit for value in term.values)) for term in limit.terms)


def _least(limit: Limit) -> float:
    """Return what a limit's cost is never below."""
    return limit.fixed + sum(min(term.values) for term in limit.terms)
