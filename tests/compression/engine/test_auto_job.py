"""Jobs that find their size: killed in each training and gone on, and followed by a larger size if the first one misses."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compression.engine.checkpoints import StageCheckpoint
from compression.engine.context import StageContext
from compression.engine.pipeline import compress
from compression.engine.stage_clock import StageClock
from compression.engine.stages import size_rounds, size_training
from compression.schema.errors import MissingResource
from compression.schema.events import Event, Log, StageStarted, TrainingSaved
from compression.schema.report.report import Report
from compression.schema.report.size_search import SizeSearch, SizeTried
from compression.schema.solved_search import SolvedSearch
from compression.system.sealed_folder import STATE, unseal
from tests.support.attempts import UNSAVED, attempt, keep
from tests.support.engine_jobs import RECIPE, report_of, spec_of, write_spec

AUTO: dict[str, Any] = {
    **RECIPE,
    "prepare": {"epochs": 3, "rate": 3e-3},
    "prune": {"search": "solver", "ratio": 0.5, "multiple": 8, "calibration_rows": 64},
    "distill": {"epochs": 3, "rate": 3e-3, "general": {"epochs": 1, "attention": 0.0}},
    "auto": {"rounds": 2, "steps": 20, "budget_minutes": 1000},
    "artifacts": [],
}
TIMES = {"seconds", "judging_seconds", "error_seconds", "minutes", "ship_seconds"}


def untimed(found: SizeSearch) -> dict[str, Any]:
    """Return a record without what depends on the machine's speed."""
    whole = found.model_dump(exclude={"why", "tried"} | TIMES)
    return {**whole, "tried": [one.model_dump(exclude=TIMES) for one in found.tried]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shallow: Path, reviews: Path) -> tuple[Path, Report]:
    place = tmp_path_factory.mktemp("whole")
    spec = spec_of(shallow, reviews, recipe=AUTO, targets={"retention": 0.9})
    return place, report_of(compress(spec, place))


def test_sizes_are_tried_and_the_smallest_that_keeps_the_target_is_distilled(whole: tuple[Path, Report]) -> None:
    place, report = whole
    assert [row.stage for row in report.rows] == ["baseline", "quantized", "pruned", "distilled"]
    found = report.sizes
    assert found is not None
    short = [one for one in found.tried if one.kind == "short"]
    assert 1 <= len(short) <= 2
    assert all(one.kept is not None and one.expected is not None and one.steps == 20 for one in short)
    assert [len(one.curve) for one in short] == [one.epochs for one in short]
    full = [one for one in found.tried if one.kind == "full"]
    assert all((one.epochs, one.general_epochs) == (3, 1) and one.kept is not None for one in full)
    (chosen,) = [one for one in found.tried if one.chosen]
    assert chosen in full
    met = [one.cost for one in full if one.kept >= found.retention]
    assert met, "otherwise this shows nothing"
    assert chosen.cost == min(met)
    last = report.rows[-1]
    assert (chosen.shape, chosen.parameters) == (last.shape, last.parameters.total)
    assert last.parameters.total < report.rows[0].parameters.total == found.whole
    assert chosen.kept == pytest.approx(last.ratios.retention_on_validation, abs=0.05)  # the artifact's, in its runtime
    assert "That meets the target" in found.why
    assert found.why in last.notes
    assert report.pruning["ffn"]["after"] == last.shape.ffn
    cut = StageCheckpoint.model_validate_json(unseal(place / "out" / "checkpoints" / "pruned" / STATE))
    assert found.ship_seconds == cut.ship_seconds  # not what the whole model's export took, by which the search began


def test_the_gate_of_a_job_without_one_is_what_the_target_leaves(whole: tuple[Path, Report]) -> None:
    _, report = whole
    gate = report.targets.quality_gate
    assert gate is not None
    assert (gate.max_drop, gate.retention, gate.confidence) == (None, 0.9, 0.95)
    assert report.gate is not None
    assert report.gate.max_drop == pytest.approx(0.1 * report.rows[0].validation.value)


def test_a_job_that_is_killed_in_each_training_goes_on_there_and_finds_the_same(
    tmp_path: Path, shallow: Path, reviews: Path, whole: tuple[Path, Report]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    changes = {"recipe": AUTO, "targets": {"retention": 0.9}, "save_seconds": 0}
    rounds = [f"try size {number}" for number, one in enumerate(whole[1].sizes.tried, 1) if one.kind == "short"]
    fully = [size_training.suffix_of(number) for number, one in enumerate(whole[1].sizes.tried[len(rounds) :])]
    for number, phase in enumerate([*rounds, "general", *(f"distill{suffix}" for suffix in fully)]):
        place = tmp_path / f"attempt-{number}"
        more = {"resume": str(kept)} if number else {}
        seen = attempt(place, kept, write_spec(place, shallow, reviews, **changes, **more), phase)
        if number:
            assert any(isinstance(event, Log) and event.message.startswith("Training goes on from step") for event in seen)
    seen = list(compress(spec_of(shallow, reviews, **changes | UNSAVED, resume=str(kept)), tmp_path))
    resumed = [event.stage for event in seen if isinstance(event, StageStarted) and event.resumed]
    assert resumed == ["baseline", "quantized", "pruned"]
    report = report_of(seen)
    assert untimed(report.sizes) == untimed(whole[1].sizes)
    assert report.rows[-1].validation == whole[1].rows[-1].validation


def test_no_size_is_larger_than_the_cut_may_be_whatever_is_kept(
    tmp_path: Path, shallow: Path, reviews: Path, whole: tuple[Path, Report]
) -> None:
    limits = {"target_params": 0.62, "target_bytes": 0.62}
    recipe = {**AUTO, "prune": {**AUTO["prune"], "ratio": 0.3, **limits}}
    kept = tmp_path / "kept"
    kept.mkdir()
    changes = {"recipe": recipe, "targets": {"retention": 1.5}, "save_seconds": 0}
    attempt(tmp_path / "killed", kept, write_spec(tmp_path / "killed", shallow, reviews, **changes), "try size 1")
    report = report_of(compress(spec_of(shallow, reviews, **changes | UNSAVED, resume=str(kept)), tmp_path))
    found, most = report.sizes, 0.38 * report.rows[0].parameters.total
    assert found.tried
    assert all(one.parameters <= most for one in found.tried)
    assert report.rows[-1].parameters.total <= most
    assert "the mildest within 'prune.target_params', 'prune.target_bytes'" in found.why
    keys = [one.key for one in report.rows[-1].verdict.remedies]
    assert "recipe.prune.target_params" in keys


@pytest.fixture
def first_misses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the first full training have kept a third."""
    plain, count = size_training.trained, [0]

    def poorly(context: Any, size: SizeTried, *given: Any) -> SizeTried:
        found, count[0] = plain(context, size, *given), count[0] + 1
        return found.model_copy(update={"kept": 0.33}) if count[0] == 1 else found

    monkeypatch.setattr(size_training, "trained", poorly)
    return iter(())


def test_after_a_kill_exports_take_what_the_last_one_took(
    tmp_path: Path, shallow: Path, reviews: Path, whole: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in ("baseline", "quantized"):
        shutil.copytree(whole[0] / "out" / "checkpoints" / stage, tmp_path / "kept" / stage)
    known: list[float | None] = []

    def began(context: StageContext, *_: object) -> SizeSearch:
        known.append(context.clock.shipped)
        raise StopAsyncIteration

    monkeypatch.setattr(size_rounds, "begin_record", began)
    spec = spec_of(shallow, reviews, recipe=AUTO, targets={"retention": 0.9}, resume="kept")
    with pytest.raises(StopAsyncIteration):
        list(compress(spec, tmp_path))
    kept = StageCheckpoint.model_validate_json(unseal(tmp_path / "kept" / "quantized" / STATE))
    assert known == [kept.ship_seconds]
    assert 0 < kept.ship_seconds < kept.rows[-1].seconds


@pytest.mark.usefixtures("first_misses")
def test_a_size_that_misses_the_target_is_followed_by_a_larger_one_also_after_a_kill(
    tmp_path: Path, shallow: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {**AUTO, "auto": {**AUTO["auto"], "rounds": 1}, "quantize": None, "prune": {**AUTO["prune"], "axes": ["ffn"]}}
    changes = {"recipe": recipe, "targets": {"retention": 0.6}, "save_seconds": 0}
    kept, phase = tmp_path / "kept", f"distill{size_training.suffix_of(1)}"
    job = compress(spec_of(shallow, reviews, **changes), tmp_path)
    for event in job:
        keep(event, tmp_path / "out" / "checkpoints", kept)
        if isinstance(event, TrainingSaved) and event.phase == phase:
            break
    job.close()
    plain = StageClock.carry
    monkeypatch.setattr(StageClock, "carry", lambda clock, seconds: plain(clock, seconds + 1000))
    changes |= UNSAVED
    report = report_of(compress(spec_of(shallow, reviews, **changes, resume="kept", output="again"), tmp_path))
    first, *others = [one for one in report.sizes.tried if one.kind == "full"]
    (chosen,) = [one for one in others if one.chosen]
    assert (first.kept, first.chosen) == (0.33, False)
    assert report.rows[-1].seconds > 1000  # the earlier attempt's too
    assert chosen.parameters > first.parameters == report.rows[-2].parameters.total
    assert chosen.kept >= 0.6
    assert report.rows[-1].parameters.total == chosen.parameters
    assert report.pruning["ffn"]["after"] == report.rows[-1].shape.ffn
    assert "That meets the target" in report.sizes.why
    stored = SolvedSearch.model_validate_json(unseal(tmp_path / "again" / "checkpoints" / "tables" / "solved.json"))
    assert stored.error == chosen.error  # what answers to other targets rest on
    assert "Of 2 sizes that were distilled fully, number 2 goes on" in report.sizes.why
    told = [one.partition("Distillation: validation")[0] for one in report.rows[-1].notes if "Distillation: validation" in one]
    assert told == ["", "Distilled size 2: "]
    assert any(one.startswith("Distilled size 2: General phase on") for one in report.rows[-1].notes)

    def fails(_: object) -> Iterator[Event]:
        yield Log(message="A table is looked for.")
        raise MissingResource("this worker has no table")

    monkeypatch.setattr(size_training, "stored_solver", fails)  # as on another worker
    report = report_of(compress(spec_of(shallow, reviews, **changes, resume="kept", output="third"), tmp_path))
    (only,) = [one for one in report.sizes.tried if one.kind == "full"]
    assert (only.chosen, only.kept, only.parameters) == (True, 0.33, report.rows[-1].parameters.total)
    assert "No other size was cut: this worker has no table." in report.sizes.why


def test_without_time_the_first_size_is_distilled_for_an_epoch_and_the_report_says_so(
    tmp_path: Path, shallow: Path, reviews: Path
) -> None:
    recipe = {**AUTO, "auto": {"rounds": 2, "steps": 20, "budget_minutes": 1e-6}}
    report = report_of(compress(spec_of(shallow, reviews, recipe=recipe, targets={"retention": 2.0}), tmp_path))
    (full,) = report.sizes.tried
    assert (full.kind, full.chosen) == ("full", True)
    assert (full.epochs, full.general_epochs) == (1, 1)
    assert report.sizes.minutes > report.sizes.budget_minutes
    assert "0 sizes were distilled shortly; what is left of auto.budget_minutes" in report.sizes.why
    assert "That misses the target" in report.sizes.why
