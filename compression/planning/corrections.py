"""What forecasts learn from finished jobs: by stage, the time that they took on a machine over that of their forecasts."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MOST_JOBS = 20
"""Finished jobs that a forecast learns from, the last ones."""
PRIOR_JOBS = 0.5
"""Jobs that the forecast itself counts as: n jobs have the weight n / (n + 0.5) against it."""
FEWEST_FOR_SPREAD, FEWEST_FOR_SHARES = 3, 10
"""Jobs that a spread is told from: from its smallest to its largest, and from 10 on what the middle 80 % of them took."""

Times = Mapping[str, tuple[float, float]]
"""Of one finished job, by stage: seconds as forecast for the machine that ran it, and as they were; both are positive."""


@dataclass(frozen=True)
class Correction:
    """What finished jobs of one machine and one kind took, over their forecasts."""

    jobs: int = 0  #: how many it is learnt from
    stages: Mapping[str, float] = field(default_factory=dict)  #: factor of a stage's forecast
    overall: float = 1.0  #: factor of stages that none of them had
    spread: tuple[float, float] | None = None  #: of the corrected forecasts of these jobs: the factors that they were off by

    def factors(self, stages: Iterable[str]) -> dict[str, float]:
        """Return the factors of some stages."""
        return {stage: self.stages.get(stage, self.overall) for stage in stages}


def learn(finished: Sequence[Times]) -> Correction:
    """Return the correction that jobs teach, the last MOST_JOBS of them. finished: the newest first.

    A stage's factor is the median of its ratios, drawn towards 1 in logarithms by PRIOR_JOBS: of one job it is the ratio to the
    power of 2/3, of ten to that of 0.95.
    """
    jobs = [one for one in finished if one][:MOST_JOBS]
    ratios = defaultdict[str, list[float]](list)
    for one in jobs:
        for stage, (forecast, took) in one.items():
            ratios[stage].append(took / forecast)
    stages = {stage: _drawn(found) for stage, found in ratios.items()}
    overall = _drawn([_total(one, took=True) / _total(one) for one in jobs])
    return Correction(len(jobs), stages, overall, _spread(jobs, stages))


def _drawn(ratios: Sequence[float]) -> float:
    if not ratios:
        return 1.0
    return math.exp(len(ratios) / (len(ratios) + PRIOR_JOBS) * math.log(statistics.median(ratios)))


def _total(job: Times, factors: Mapping[str, float] | None = None, *, took: bool = False) -> float:
    if took:
        return sum(seconds for _, seconds in job.values())
    return sum((factors or {}).get(stage, 1.0) * forecast for stage, (forecast, _) in job.items())


def _spread(jobs: Sequence[Times], factors: Mapping[str, float]) -> tuple[float, float] | None:
    if len(jobs) < FEWEST_FOR_SPREAD:
        return None
    off = sorted(_total(one, took=True) / _total(one, factors) for one in jobs)
    ends = off if len(off) < FEWEST_FOR_SHARES else statistics.quantiles(off, n=10, method="inclusive")
    return min(ends[0], 1.0), max(ends[-1], 1.0)  # a forecast that is still drawn towards 1 may lie beyond all of them
