"""The solver as one search among others: its solution, and solutions of reweighed errors if predictions are corrected.

By the tables alone its first solution is the best there is. A corrected prediction is no sum of the tables, so, as SPDY does
(Frantar and Alistarh 2022), the errors get random weights, each weighting is solved exactly, and what is predicted best stays.
"""

import random
from dataclasses import replace

from compression.planning.search.problem import Problem, Term
from compression.planning.search.trials import Trials

SPREAD = 0.7
"""Standard deviation of the logarithm of an error's random weight: most are between half and twice the error."""


def search(problem: Problem, trials: Trials, seed: int) -> None:
    """Evaluate the solution; of corrected predictions, further ones too. Raises what the solver raises, and
    BudgetSpent."""
    draw = random.Random(seed)
    first = trials.solve(problem)
    proposed = [dict(first.picks)]
    trials.predict(proposed[0], final=True)
    if trials.exact:
        trials.gap = first.gap
        return
    for _ in range(trials.budget.evaluations):
        terms = tuple(_weighed(term, draw.lognormvariate(0.0, SPREAD)) for term in problem.error)
        picks = dict(trials.solve(replace(problem, error=terms)).picks)
        if picks not in proposed:
            proposed.append(picks)
            trials.predict(picks)
        elif trials.seconds >= trials.budget.seconds:
            return


def _weighed(term: Term, weight: float) -> Term:
    return replace(term, values=tuple(weight * value for value in term.values))
