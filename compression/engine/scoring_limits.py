"""How many rows an artifact is scored on, and for how long: no longer than the job trains, and on the baseline's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compression.planning.scoring_time import most_seconds
from compression.schema.job_spec import Spec
from compression.schema.recipe.base import Split
from compression.schema.report.measurements import Row, Score


@dataclass(frozen=True)
class ScoringLimits:
    """The limits of one artifact's scores."""

    rows: Mapping[Split, int] = field(default_factory=dict)  #: most rows, by split; all where absent
    seconds: float | None = None  #: for both splits; None: no limit


UNLIMITED = ScoringLimits()
LATER = 4.0
"""Later artifacts may take so many times as long: the baseline's limits their rows, and fewer of these would make no pairs."""


def scoring_limits(spec: Spec, rows: Sequence[Row], trained_seconds: float) -> ScoringLimits:
    """Return the limits of the next artifact of a dataset.

    rows: the dataset's so far. Later artifacts are scored on the baseline's sample of rows, so that scores make pairs.
    trained_seconds: of the dataset so far, in case it trains longer than forecast.
    """
    forecast = (spec.training_seconds or 0.0) / len(spec.asked)
    scores: dict[Split, object] = {"validation": rows[0].validation, "test": rows[0].score} if rows else {}
    first = {split: score.rows for split, score in scores.items() if isinstance(score, Score) and score.split_rows is not None}
    most = most_seconds(max(forecast, trained_seconds))
    return ScoringLimits(first, LATER * most if rows else most)
