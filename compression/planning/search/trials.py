"""What every search shares: a budget, the predictions that it may ask for, and what it has tried. Torch-free.

A search proposes picks; `Trials.predict` returns their error and costs, counts them and raises BudgetSpent when the budget is
used up. So searches are compared at the same number of evaluations and the same wall clock, and the best of what was tried is
known even if a search is stopped midway.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from time import perf_counter
from typing import Protocol

from compression.planning.search.problem import Picks, Problem, Solve
from compression.planning.search.solver import solve
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
    excluded: bool  #: whether an earlier round has looked at it, and its real costs were not
    seconds: float  #: from the beginning of the search until it was known


class Trials:
    """The predictions that a search has asked for."""

    def __init__(
        self,
        problem: Problem,
        budget: SearchBudget,
        evaluate: Evaluate | None = None,
        *,
        earlier: "SearchResult | None" = None,
        beat: Callable[[], None] = lambda: None,
        solve: Solve = solve,
    ) -> None:
        """evaluate: predicts the error of picks; None: the tables' sum, for which the solver's first answer is the best.

        earlier: what came of the same search under other limits: its trials count in the budget and are judged by these limits.
        beat: called again and again; what it raises ends the search. solve: the exact solver, for a search that asks it.
        """
        self.problem, self.budget, self.beat, self.solve = problem, budget, beat, solve
        self.exact = evaluate is None
        self.gap: float | None = None
        """The share of its best error by which another may err less, as predicted; set by a search that knows it."""
        self._evaluate = evaluate or problem.error_of
        self._tried = [self._judged(one) for one in earlier.tried] if earlier is not None else []
        self._began = perf_counter() - (earlier.seconds if earlier is not None else 0.0)

    @property
    def seconds(self) -> float:
        """Return the seconds since the search began, without those in which it stood still."""
        return perf_counter() - self._began

    @property
    def tried(self) -> tuple[Trial, ...]:
        """Return what was tried, in order."""
        return tuple(self._tried)

    @property
    def is_spent(self) -> bool:
        """Return whether no evaluation or no time is left."""
        return len(self._tried) >= self.budget.evaluations or self.seconds >= self.budget.seconds

    def check(self) -> None:
        """Raise BudgetSpent if the time is over. For long work between two predictions."""
        self.beat()
        if self.seconds >= self.budget.seconds:
            raise BudgetSpent

    def predict(self, picks: Picks, *, final: bool = False) -> Trial:
        """Evaluate picks. Raises BudgetSpent if no evaluation or no time is left, unless this is the first, or `final`: what
        the search comes to.
        """
        self.beat()
        if self._tried and self.is_spent and not final:
            raise BudgetSpent
        error = self._evaluate(picks) if self.problem.error_of(picks) < inf else inf
        found = self._judged(Trial(dict(picks), error, {}, allowed=False, excluded=False, seconds=0.0))
        found = replace(found, seconds=self.seconds)
        self._tried.append(found)
        return found

    def _judged(self, trial: Trial) -> Trial:
        """Return a trial with its costs by the problem's limits, and whether it is within them."""
        costs = self.problem.costs_of(trial.picks)
        over = [limit for limit in self.problem.limits if costs[limit.name] > limit.most]
        allowed = trial.error < inf and all(limit.excludes is not None for limit in over)
        excluded = any(limit.excludes is not None for limit in over)
        return replace(trial, costs=costs, allowed=allowed, excluded=excluded)


class Search(Protocol):
    """Propose picks and learn from their predictions, until BudgetSpent is raised or nothing better can be found."""

    def __call__(self, problem: Problem, trials: Trials, seed: int) -> None:
        """Search. The same seed and number of evaluations give the same trials.

        Raises BudgetSpent, and TargetOutOfReach if it finds that nothing is within the limits.
        """


@dataclass(frozen=True)
class SearchResult:
    """What came of a search."""

    best: Trial | None  #: what errs least of what the limits allow, in time if anything was; None if nothing was allowed
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
    """Run a search within a budget. Raises TargetOutOfReach if it finds that nothing is within the limits."""
    return searched(search, Trials(problem, budget, evaluate), seed)


def searched(search: Search, trials: Trials, seed: int, *, always: bool = False) -> SearchResult:
    """Run a search within what is left of the budget of its trials. Raises TargetOutOfReach if the search finds that nothing is
    within the limits, and what `beat` and `solve` raise.

    always: even if the budget was spent under other limits, for a search whose answer to them is none to these.
    """
    with suppress(BudgetSpent):
        if always or not trials.tried or not trials.is_spent:
            search(trials.problem, trials, seed + len(trials.tried))
    seconds, budget = trials.seconds, trials.budget
    allowed = [trial for trial in trials.tried if trial.allowed and not trial.excluded]
    # What was known only after the budget's time counts if there is nothing else.
    best = min(allowed, key=lambda trial: (trial.seconds > budget.seconds, trial.error), default=None)
    return SearchResult(best, trials.tried, seconds, trials.gap)
