"""What every search shares: a budget, the predictions that it may ask for, and what it has tried. Torch-free.

A search proposes picks; `Trials.predict` returns their error and costs, counts them and raises BudgetSpent when the budget is
used up. So searches are compared at the same number of evaluations and the same wall clock, and the best of what was tried is
known even if a search is stopped midway.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Protocol

from compression.planning.search.problem import Picks, Problem
from compression.schema.recipe.prune import SearchBudget

Evaluate = Callable[[Picks], float]
"""Returns the predicted error of picks. It may correct what the tables say."""


class BudgetSpent(Exception):
    """No evaluation, or no time, is left. `run_search` catches it."""


@dataclass(frozen=True)
class Trial:
    """One evaluation: picks and their prediction."""

    picks: Picks
    error: float  #: predicted; inf if there is no such combination
    costs: Mapping[str, float]  #: by the names of the limits
    allowed: bool  #: whether the combination exists and all costs are within their limits
    seconds: float  #: from the beginning of the search until it was known


class Trials:
    """The predictions that a search has asked for."""

    def __init__(self, problem: Problem, budget: SearchBudget, evaluate: Evaluate | None = None) -> None:
        """evaluate: predicts the error of picks; None: the tables' sum, for which the solver's first answer is the best."""
        self.problem, self.budget = problem, budget
        self.exact = evaluate is None
        self.gap: float | None = None
        """The share of its best error by which another may err less, as predicted; set by a search that knows it."""
        self._evaluate = evaluate or problem.error_of
        self._tried: list[Trial] = []
        self._began = perf_counter()

    @property
    def seconds(self) -> float:
        """Return the seconds since the search began."""
        return perf_counter() - self._began

    @property
    def tried(self) -> tuple[Trial, ...]:
        """Return what was tried, in order."""
        return tuple(self._tried)

    def predict(self, picks: Picks) -> Trial:
        """Evaluate picks. Raises BudgetSpent if no evaluation or no time is left; the first one is always evaluated."""
        if len(self._tried) >= self.budget.evaluations or (self._tried and self.seconds >= self.budget.seconds):
            raise BudgetSpent
        exists = self.problem.error_of(picks) < inf
        error = self._evaluate(picks) if exists else inf
        allowed = exists and self.problem.allows(picks)
        found = Trial(dict(picks), error, self.problem.costs_of(picks), allowed, self.seconds)
        self._tried.append(found)
        return found


class Search(Protocol):
    """Propose picks and learn from their predictions, until BudgetSpent is raised or nothing better can be found."""

    def __call__(self, problem: Problem, trials: Trials, seed: int) -> None:
        """Search. The same seed and number of evaluations give the same trials.

        Raises BudgetSpent, and TargetOutOfReach if it finds that nothing is within the limits.
        """


@dataclass(frozen=True)
class SearchResult:
    """What came of a search."""

    best: Trial | None  #: what errs least of what the limits allow; None if nothing was allowed
    tried: tuple[Trial, ...]
    seconds: float
    gap: float | None = None  #: the share of its error by which another may err less, as predicted; None: not known

    @property
    def evaluations(self) -> int:
        """Return how many predictions were asked for."""
        return len(self.tried)


def run_search(
    search: Search, problem: Problem, budget: SearchBudget, seed: int, evaluate: Evaluate | None = None
) -> SearchResult:
    """Run a search within a budget. Raises TargetOutOfReach if the search finds that nothing is within the limits."""
    trials = Trials(problem, budget, evaluate)
    with suppress(BudgetSpent):
        search(problem, trials, seed)
    seconds = trials.seconds
    allowed = [trial for trial in trials.tried if trial.allowed]
    return SearchResult(min(allowed, key=lambda trial: trial.error, default=None), trials.tried, seconds, trials.gap)
