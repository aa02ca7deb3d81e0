"""Predicts the score of a cut from its predicted error, by what came of the job's own cuts. Torch-free.

Two things were measured. Untrained cuts say how the change of the model's answers grows with the predicted error: a power of
it, fitted to the logarithms. The job's own cut, once trained, says what its change cost in score. A further cut is taken to
cost as much more as its answers change more. That training closes the same share of the gap at every size is an assumption:
beyond the cuts that were judged, the real loss may well be larger.
"""

from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import fmean

from compression.schema.solved_search import CutOutcome, SolvedSearch
from compression.schema.target_answer import PredictedScore, ScoreFacts

FEWEST = 3
"""Cuts with different errors that a power is fitted to, at least: with two its error would be unknown."""


@dataclass(frozen=True)
class Power:
    """change = factor × error ** exponent, fitted to logarithms by least squares."""

    exponent: float
    deviation: float  #: standard error of the exponent
    scatter: float  #: standard deviation of the logarithm of a cut's change around the fit
    cuts: int


def fit_power(outcomes: tuple[CutOutcome, ...]) -> Power | None:
    """Return how changes grow with predicted errors; None if too few cuts with different errors were judged."""
    points = sorted({(log(each.error), log(each.change)) for each in outcomes if each.error > 0 and each.change > 0})
    if len({error for error, _ in points}) < FEWEST:
        return None
    center, height = fmean(error for error, _ in points), fmean(change for _, change in points)
    spread = sum((error - center) ** 2 for error, _ in points)
    slope = sum((error - center) * (change - height) for error, change in points) / spread
    left = sum((change - height - slope * (error - center)) ** 2 for error, change in points)
    scatter = sqrt(left / (len(points) - 2))
    return Power(slope, scatter / sqrt(spread), scatter, len(points))


def predict_score(error: float, search: SolvedSearch, facts: ScoreFacts | None) -> PredictedScore | str:
    """Return the score on validation that a cut of a predicted error may come to, or why none is predicted.

    facts: what the job's own cut did; None if that is not known.
    """
    if facts is None:
        return "The job has no scores on validation of before and after its cut."
    if search.error <= 0:
        return "The job cut nothing, so nothing says what an error costs."
    power = fit_power(search.outcomes)
    if power is None:
        return f"Fewer than {FEWEST} different cuts were judged in this job: nothing says how changes grow with the error."
    if power.exponent <= 0:
        return "In this job, cuts of a larger predicted error changed the answers no more: the tables predict no score."
    before, after = facts.before, facts.after
    farther = log(error / search.error) if error > 0 else None
    times = 0.0 if farther is None else exp(min(power.exponent * farther, 50.0))
    lost = min(after.worth - before.worth, 0.0)  # a job that gained by its cut says nothing of deeper ones
    unsure = 0.0 if farther is None else (farther * power.deviation) ** 2 + power.scatter**2
    noise = ((1 - times) * before.worth_error) ** 2 + (times * after.worth_error) ** 2 + (times * lost) ** 2 * unsure
    most = max(before.above_chance, 0.0)
    worth = before.worth + max(times * lost, -most)
    unsure_by = min(sqrt(noise), max(most, before.worth_error))  # no value is further off
    value, slope = (exp(-worth), exp(-worth)) if before.lower_is_better else (worth, 1.0)  # a perplexity's, by the delta method
    basis = (
        f"{power.cuts} untrained cuts, whose change grew as error^{power.exponent:.2f}, and this job's own cut, which after "
        f"training went from {before.value:.4g} to {after.value:.4g} on validation. One job is one point: no bound follows."
    )
    return PredictedScore(
        metric=before.metric,
        value=value,
        standard_error=slope * unsure_by,
        lower_is_better=before.lower_is_better,
        extrapolated=error > max(each.error for each in search.outcomes),
        basis=basis,
    )
