"""How long an artifact may be scored, and on which rows: those of the baseline, no longer than the job trains."""

import pytest

from compression.engine.scoring_limits import ScoringLimits, scoring_limits
from compression.planning.scoring_time import FEWEST_SECONDS
from compression.schema.job_spec import DatasetSpec, Spec
from compression.schema.report.measurements import NotMeasured, Score
from tests.support.engine_jobs import spec_of
from tests.support.unmeasured import unmeasured


def scored(rows: int, of: int | None) -> Score:
    own = {"metric": "accuracy", "value": 0.9, "standard_error": 0.01, "value_at_batch_32": 0.9, "chance": 0.5}
    return Score(**own, rows=rows, split_rows=of, rows_changed_by_batching=0)


@pytest.fixture
def spec() -> Spec:
    return spec_of("model", "rows")


def test_scores_take_as_long_as_training_and_ten_minutes_in_any_case(spec: Spec) -> None:
    assert scoring_limits(spec, [], 5.0) == ScoringLimits({}, FEWEST_SECONDS)
    assert scoring_limits(spec, [], 5000.0).seconds == 5000.0
    forecast = spec.model_copy(update={"training_seconds": 8000.0})
    assert scoring_limits(forecast, [], 5000.0).seconds == 8000.0
    two = tuple(DatasetSpec(name=name, data=spec.data) for name in "ab")
    shared = forecast.model_copy(update={"task": "several", "data": None, "parts": two})
    assert scoring_limits(shared, [], 0.0).seconds == 4000.0


def test_later_artifacts_are_scored_on_the_sample_of_the_baseline(spec: Spec) -> None:
    sampled = unmeasured(score=scored(300, 5000), validation=scored(200, 900))
    later = unmeasured("quantized", score=scored(100, 5000), validation=scored(100, 900))
    assert scoring_limits(spec, [sampled, later], 0.0).rows == {"test": 300, "validation": 200}
    whole = unmeasured(score=scored(300, None), validation=NotMeasured(not_measured="a test"))
    assert scoring_limits(spec, [whole], 0.0).rows == {}
    # As fast as the baseline, one has its rows in time whatever the clock says.
    assert scoring_limits(spec, [sampled], 0.0).seconds == 4 * FEWEST_SECONDS
