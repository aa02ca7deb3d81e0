"""Runs the recipe's search, and the solver beside it on the same problem with the same budget. Torch-free."""

from pkgutil import resolve_name
from typing import cast

from compression.planning.search.problem import Problem, Solution
from compression.planning.search.trials import Evaluate, Search, SearchResult, run_search
from compression.schema.recipe.prune import SearchBudget
from compression.schema.report.search import EQUAL, SearchComparison, SearchOutcome, winner
from compression.schema.searches import SEARCHES, SOLVER, check_installed


def search_of(name: str) -> Search:
    """Return a search by its name. Raises MissingResource if a package that it needs is not installed."""
    check_installed(name)
    return cast(Search, resolve_name(SEARCHES[name].engine))


class ComparedSearch:
    """Solves problems by a search, as `solver.solve` does, and keeps how the solver did beside it."""

    def __init__(self, name: str, budget: SearchBudget, seed: int, evaluate: Evaluate | None = None) -> None:
        """evaluate: predicts the error of picks; None: the tables' sum."""
        self.name, self.budget, self.seed, self.evaluate = name, budget, seed, evaluate
        self.comparison: SearchComparison | None = None  #: of the last problem; None for the solver itself
        self.results: dict[str, SearchResult] = {}  #: of the last problem, by the name of the search

    def __call__(self, problem: Problem) -> Solution:
        """Return what the search found, or what the solver found if the search found nothing within the limits.

        Raises TargetOutOfReach if there is nothing, and MissingResource.
        """
        solver = run_search(search_of(SOLVER), problem, self.budget, self.seed, self.evaluate)
        self.results, best = {SOLVER: solver}, solver.best
        if self.name != SOLVER:
            found = run_search(search_of(self.name), problem, self.budget, self.seed, self.evaluate)
            self.results[self.name], best = found, found.best or solver.best
            chosen, beside = outcome(self.name, found), outcome(SOLVER, solver)
            self.comparison = SearchComparison(chosen=chosen, solver=beside, won=winner(chosen, beside))
        assert best is not None, "the solver's first solution is always evaluated, and within the limits"  # noqa: S101
        if solver.best is None or solver.gap is None:
            return Solution(best.picks, best.error, best.costs, proven=False)
        least = solver.best.error * (1 - solver.gap)
        gap = max(1 - least / best.error, 0.0) if best.error > 0 else 0.0
        return Solution(best.picks, best.error, best.costs, proven=best.error - least <= EQUAL, gap=gap)


def outcome(name: str, result: SearchResult) -> SearchOutcome:
    """Return what a report tells of a search."""
    return SearchOutcome(
        search=name,
        error=result.best.error if result.best is not None else None,
        evaluations=result.evaluations,
        allowed=sum(trial.allowed for trial in result.tried),
        seconds=result.seconds,
        proven=result.gap == 0 if result.gap is not None else None,
    )
