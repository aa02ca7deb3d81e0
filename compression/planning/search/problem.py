"""A choice among widths as data: what can be chosen, what that errs and what it costs. Pure data, torch-free."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf

Picks = Mapping[str, int]
"""Name of a choice → number of the option that is taken, from 0."""


@dataclass(frozen=True)
class Choice:
    """One of some options must be taken."""

    name: str
    options: int


@dataclass(frozen=True)
class Term:
    """A number that depends on one choice, or on several together."""

    choices: tuple[str, ...]
    values: tuple[float, ...]  #: one for each combination of options, those of the last choice side by side; inf: there is none

    def at(self, picks: Picks, options: Mapping[str, int]) -> float:
        """Return the number of a combination. options: of each choice."""
        place = 0
        for name in self.choices:
            place = place * options[name] + picks[name]
        return self.values[place]


@dataclass(frozen=True)
class Limit:
    """A cost that may not be more than a bound."""

    name: str
    most: float
    terms: tuple[Term, ...]
    fixed: float = 0.0  #: what is spent whatever is chosen
    firm: bool = False  #: not even the nearest point to a target out of reach is above it
    excludes: Picks | None = None  #: of a limit that says nothing but that these are not taken: each counts 1 where it is


def exclusion(name: str, choices: Iterable[Choice], picks: Picks) -> Limit:
    """Return the limit that these picks are not taken: each choice of which an option is taken again counts 1."""
    each = {choice.name: choice.options for choice in choices}
    terms = (Term((one,), tuple(float(option == picks[one]) for option in range(options))) for one, options in each.items())
    return Limit(name, len(each) - 1, tuple(terms), firm=True, excludes=picks)


@dataclass(frozen=True)
class Problem:
    """Take one option of each choice, so that the error is least and no cost is above its limit."""

    choices: tuple[Choice, ...]
    error: tuple[Term, ...]
    limits: tuple[Limit, ...]

    @cached_property
    def options(self) -> Mapping[str, int]:
        """Return how many options each choice has."""
        return {choice.name: choice.options for choice in self.choices}

    def error_of(self, picks: Picks) -> float:
        """Return the error of what is taken."""
        return self._sum(self.error, picks)

    def costs_of(self, picks: Picks) -> dict[str, float]:
        """Return each limit's cost of what is taken."""
        return {limit.name: limit.fixed + self._sum(limit.terms, picks) for limit in self.limits}

    def allows(self, picks: Picks) -> bool:
        """Return whether what is taken exists and costs at most the limits."""
        if self.error_of(picks) == inf:
            return False
        costs = self.costs_of(picks)
        return all(costs[limit.name] <= limit.most for limit in self.limits)

    def _sum(self, terms: Iterable[Term], picks: Picks) -> float:
        return sum(term.at(picks, self.options) for term in terms)


@dataclass(frozen=True)
class Solution:
    """What a solver takes."""

    picks: Picks
    error: float
    costs: Mapping[str, float]
    proven: bool = True  #: whether no other solution errs less by more than the solver's gap
    gap: float = 0.0  #: the share of its error by which another may err less, at most


Solve = Callable[[Problem], Solution]
"""Returns what errs little within all limits. Raises TargetOutOfReach with the nearest solution."""


class OutOfTime(Exception):
    """The solver had found no solution when its time was over."""


class NoCombination(ValueError):
    """No combination of the options exists."""


def out_of_reach_cause(
    asked: Mapping[str, float], reached: Mapping[str, float], *, shape: str = "", verdict: str = "cannot be reached"
) -> str:
    """Return why targets are out of reach. asked: the most of each cost; reached: what the nearest point costs; shape: its."""
    missed = [name for name in asked if reached[name] > asked[name]]
    wanted = ", ".join(f"at most {_shown(asked[name])} {name}" for name in missed or asked)
    spent = ", ".join(f"{_shown(reached[name])} {name}" for name in asked)
    return f"{wanted} {verdict}; the nearest point has {spent}{f' ({shape})' if shape else ''}"


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"
