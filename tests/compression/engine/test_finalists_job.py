"""Jobs that distill the best few cuts of one size shortly before one is taken: killed in each of them and gone on."""

from pathlib import Path
from typing import Any

import pytest

from compression.engine.pipeline import compress
from compression.schema.events import Event, Log, StageStarted
from compression.schema.report.report import Report
from tests.support.attempts import UNSAVED, attempt
from tests.support.engine_jobs import RECIPE, report_of, spec_of, write_spec

CUT = {"search": "solver", "free_widths": True, "target_params": 0.4, "multiple": 8, "calibration_rows": 64}
FINAL: dict[str, Any] = {
    **RECIPE,
    "prepare": {"epochs": 3, "rate": 3e-3},
    "prune": {**CUT, "finalists": {"cuts": 2, "steps": 20}},
    "distill": {"epochs": 2, "rate": 3e-3},
    "artifacts": [],
}


def cut_of(report: Report) -> tuple[Any, ...]:
    """Return what came of the cut, without what depends on the machine's speed."""
    row = report.rows[2]
    return row.shape, row.validation, [note for note in row.notes if "seconds" not in note and "latency" not in note]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, encoder: Path, reviews: Path) -> tuple[Report, list[Event]]:
    seen = list(compress(spec_of(encoder, reviews, recipe=FINAL), tmp_path_factory.mktemp("whole")))
    return report_of(seen), seen


def test_the_best_of_the_cuts_that_were_distilled_shortly_is_taken(whole: tuple[Report, list[Event]]) -> None:
    report, seen = whole
    (told,) = [note for note in report.rows[2].notes if "were distilled for at most" in note]
    assert told in [event.message for event in seen if isinstance(event, Log)]
    assert "for at most 20 steps each: validation accuracy" in told
    first, second = map(float, told.partition("accuracy ")[2].partition(". Number")[0].split(", "))
    taken = int(told.rpartition("Number ")[2].split()[0])
    assert (first, second)[taken - 1] == max(first, second)
    assert any("divergence" in note and "of the least" in note for note in report.rows[2].notes)


def test_a_job_that_is_killed_in_each_finalist_goes_on_there_and_takes_the_same(
    tmp_path: Path, encoder: Path, reviews: Path, whole: tuple[Report, list[Event]]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    changes = {"recipe": FINAL, "save_seconds": 0}
    for number in (1, 2):
        place = tmp_path / f"attempt-{number}"
        more = {"resume": str(kept)} if number > 1 else {}
        attempt(place, kept, write_spec(place, encoder, reviews, **changes, **more), f"try cut {number}")
    seen = list(compress(spec_of(encoder, reviews, **changes | UNSAVED, resume=str(kept)), tmp_path))
    assert [event.stage for event in seen if isinstance(event, StageStarted) and event.resumed] == ["baseline", "quantized"]
    assert any(isinstance(event, Log) and event.message.startswith("Training goes on from step") for event in seen)
    assert cut_of(report_of(seen)) == cut_of(whole[0])
