"""TPE and NSGA-II, by Optuna (extra `search`), over a choice among widths. Torch-free.

Both draw options as whole numbers in their order, so neighbours count as near, and are told by how much each limit is exceeded
through Optuna's own constraints. Both begin at cuts that take the same share of every choice, as a cut without error tables
does.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from math import inf

import optuna

from compression.planning.search.problem import Limit, Picks, Problem
from compression.planning.search.trials import Trial, Trials

STARTS = 8
"""Even cuts that are tried first, from 1/8 to 8/8 of the options."""
POPULATION = 40
"""Individuals of a generation of NSGA-II."""
UNKNOWN = 1e9
"""The error that a combination has which does not exist: Optuna takes finite numbers only."""

Objectives = Sequence[Callable[[Trial], float]]
"""What a sampler makes least."""


def search_tpe(problem: Problem, trials: Trials, seed: int) -> None:
    """Search by a tree-structured Parzen estimator of all choices together (Bergstra et al. 2011). Raises BudgetSpent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    _sample(sampler, problem, trials, [_error])


def search_nsga2(problem: Problem, trials: Trials, seed: int) -> None:
    """Search by NSGA-II (Deb et al. 2002) for the front of error and the largest share of a limit. Raises BudgetSpent."""
    sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    told = [limit for limit in problem.limits if not limit.firm]

    def fullest(found: Trial) -> float:
        return max((_excess(limit, found.costs[limit.name]) for limit in told), default=0.0)

    _sample(sampler, problem, trials, [_error, fullest])


def even_cuts(problem: Problem) -> Iterator[Picks]:
    """Yield picks that take the same share of every choice's options; a choice of two takes its second only in the last."""
    for step in range(1, STARTS + 1):
        yield {choice.name: (choice.options - 1) * step // STARTS for choice in problem.choices}


def _sample(sampler: optuna.samplers.BaseSampler, problem: Problem, trials: Trials, objectives: Objectives) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, directions=["minimize"] * len(objectives))
    for picks in even_cuts(problem):
        study.enqueue_trial(dict(picks))
    while True:
        drawn = study.ask()
        found = trials.predict({one.name: drawn.suggest_int(one.name, 0, one.options - 1) for one in problem.choices})
        for limit in problem.limits:
            drawn.set_constraint(limit.name, _excess(limit, found.costs[limit.name]))
        drawn.set_constraint("exists", 0.0 if found.error < inf else 1.0)
        study.tell(drawn, [min(value(found), UNKNOWN) for value in objectives])


def _error(found: Trial) -> float:
    return found.error


def _excess(limit: Limit, cost: float) -> float:
    """Return by what share of a limit a cost is above it; below 0 if it is within."""
    return min((cost - limit.most) / max(abs(limit.most), 1e-9), UNKNOWN)
