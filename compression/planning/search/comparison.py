"""Runs the recipe's search, and the solver beside it on the same problem with the same budget. Torch-free."""

from collections.abc import Callable
from dataclasses import replace
from pkgutil import resolve_name
from typing import cast

from compression.planning.search.problem import OutOfTime, Picks, Problem, Solution, Solve
from compression.planning.search.solver import solve
from compression.planning.search.trials import Evaluate, Search, SearchResult, Trials, searched
from compression.schema.errors import TargetOutOfReach
from compression.schema.recipe.prune import SearchBudget
from compression.schema.report.search import EQUAL, SearchComparison, SearchOutcome, winner
from compression.schema.searches import SEARCHES, SOLVER, check_installed

NOTHING = SearchResult(best=None, tried=(), seconds=0.0)


def search_of(name: str) -> Search:
    """Return a search by its name. Raises MissingResource if a package that it needs is not installed."""
    check_installed(name)
    return cast(Search, resolve_name(SEARCHES[name].engine))


class ComparedSearch:
    """Solves problems by a search, as `solver.solve` does, and keeps how the solver did beside it.

    All problems that it is called with are one choice under other limits (`solve_within` and a measured latency change them,
    and exclude what was tried): so they share one budget, and what was tried is judged again under the new limits. Only the
    solver, whose answer to one problem is none to the next, solves each.
    """

    def __init__(
        self,
        name: str,
        budget: SearchBudget,
        seed: int,
        evaluate: Evaluate | None = None,
        beat: Callable[[], None] = lambda: None,
        solve: Solve = solve,
    ) -> None:
        """evaluate: predicts the error of picks; None: the tables' sum. beat, solve: as of `Trials`."""
        self.solve = solve
        self.name, self.budget, self.seed, self.evaluate, self.beat = name, budget, seed, evaluate, beat
        self.comparison: SearchComparison | None = None  #: of the last problem that has a solution; None for the solver itself
        self.results: dict[str, SearchResult] = {}  #: by the name of the search, all that it tried
        self.taken = name  #: the search whose solution the last problem got; the solver if there was none or none was found
        self._told: dict[tuple[tuple[str, int], ...], tuple[str, SearchComparison | None]] = {}  #: by what was returned

    def of(self, picks: Picks) -> tuple[str, SearchComparison | None]:
        """Return which search a solution is of, and how both did on its problem. A nearest point is the solver's."""
        return self._told.get(tuple(sorted(picks.items())), (SOLVER, self.comparison))

    def __call__(self, problem: Problem) -> Solution:
        """Return what the search found, or what the solver found if the search found nothing within the limits.

        Raises TargetOutOfReach if there is nothing, MissingResource, and what `solve` and `beat` raise.
        """
        found = self._solved(problem)
        self._told[tuple(sorted(found.picks.items()))] = self.taken, self.comparison
        return found

    def _solved(self, problem: Problem) -> Solution:
        self.taken = SOLVER
        solver = self._run(SOLVER, problem)
        best = solver.best
        if self.name != SOLVER:
            try:
                found = self._run(self.name, problem)
            except (TargetOutOfReach, OutOfTime):  # by the tolerance of a bound, or its own programs': the solver has an answer
                found = replace(self.results.get(self.name, NOTHING), best=None)
            self.results[self.name] = found
            if found.best is not None:
                best, self.taken = found.best, self.name
            chosen, beside = outcome(self.name, found, self.budget), outcome(SOLVER, solver, self.budget)
            self.comparison = SearchComparison(chosen=chosen, solver=beside, won=winner(chosen, beside))
        if best is None:  # its prediction says that there is no such cut
            return self.solve(problem)
        if solver.gap is None:
            return Solution(best.picks, best.error, best.costs, proven=False)
        least = solver.tried[-1].error * (1 - solver.gap)  # the solver's answer to this problem
        gap = max(1 - least / best.error, 0.0) if best.error > 0 else 0.0
        return Solution(best.picks, best.error, best.costs, proven=best.error - least <= EQUAL, gap=gap)

    def _run(self, name: str, problem: Problem) -> SearchResult:
        earlier = self.results.get(name)
        trials = Trials(problem, self.budget, self.evaluate, earlier=earlier, beat=self.beat, solve=self.solve)
        found = searched(search_of(name), trials, self.seed, always=name == SOLVER)
        self.results[name] = found
        return found


def outcome(name: str, result: SearchResult, budget: SearchBudget) -> SearchOutcome:
    """Return what a report tells of a search."""
    best, proven = result.best, None
    if result.gap is not None:  # of the last that was tried
        proven = result.gap == 0 and best is not None and best.error <= result.tried[-1].error + EQUAL
    return SearchOutcome(
        search=name,
        error=best.error if best is not None else None,
        evaluations=result.evaluations,
        allowed=sum(trial.allowed for trial in result.tried),
        seconds=result.seconds,
        proven=proven,
        late=best is not None and best.seconds > budget.seconds,
    )
