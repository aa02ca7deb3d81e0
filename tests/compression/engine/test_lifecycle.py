"""The life of a job, the same in memory and on disk: open, run, die or pause, go on, report."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compression.engine import shipping
from compression.engine.checkpoints import StageCheckpoint
from compression.engine.pipeline import compress
from compression.schema.errors import CompressionError, InvalidSpec, MissingFile, UnsupportedShape
from compression.schema.events import ArtifactReady, Event, Log, Progress, StageFinished, StageStarted, Started
from compression.schema.job_spec import Spec
from compression.schema.report.measurements import Score
from compression.schema.report.report import File, Report
from compression.system.interrupts import Pause
from compression.system.sealed_folder import digest, unseal
from tests.compression.engine.on_disk.test_backend import ONLY_QUANTIZE, model_into, spec_of
from tests.support.engine_jobs import before_of, report_of, rows_in_download
from tests.support.measuring import briefly

STAGES = ["baseline", "quantized", "pruned"]
RECIPE = {**ONLY_QUANTIZE, "prune": {"ratio": {"ffn": 0.5, "heads": 0.5}, "multiple": 8, "calibration_rows": 16}}
BACKENDS: dict[str, dict[str, Any]] = {"memory": {}, "disk": {"split_batches": 2}}
"""A job's settings that choose its backend: batches are split after an attempt ran out of memory."""


@pytest.fixture(scope="module", params=BACKENDS)
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return BACKENDS[request.param]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_into(tmp_path_factory.mktemp("sent") / "model")


@pytest.fixture(autouse=True, scope="module")
def measured_here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipping, "measure_artifact", briefly)
        yield


def job(place: Path, model: Path, how: dict[str, Any], **changes: Any) -> Spec:
    return spec_of(place, model, **{"recipe": RECIPE, "memory_bytes": None, **how, **changes})


def holds(place: Path, files: tuple[File, ...]) -> bool:
    found = {path.relative_to(place).as_posix(): digest(path) for path in place.rglob("*") if path.is_file()}
    return found == {file.path: file.sha256 for file in files}


def watched(events: Iterator[Event], output: Path) -> Iterator[Event]:
    """Yield events. At each of them, what has been reported until then is complete on the disk: the process may end there."""
    reported: dict[Path, tuple[File, ...]] = {}
    for event in events:
        if isinstance(event, ArtifactReady):
            reported[output / "artifacts" / event.artifact.name] = event.artifact.files
        if isinstance(event, StageFinished):
            reported[output / "checkpoints" / event.row.stage] = event.checkpoint
        for place, files in reported.items():
            if place.parent.name == "checkpoints":
                assert holds(place, files), place
            else:
                assert {file.path for file in files} <= {path.relative_to(place).as_posix() for path in place.rglob("*")}, place
        yield event


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, how: dict[str, Any]) -> tuple[list[Event], Path]:
    place = tmp_path_factory.mktemp("whole")
    return list(watched(compress(job(place, model, how), place), place / "out")), place


def started(events: list[Event]) -> list[tuple[str, bool]]:
    return [(event.stage, event.resumed) for event in events if isinstance(event, StageStarted)]


def but_for_timing(report: Report) -> list[Any]:
    return [(row.stage, row.artifact, row.shape, row.parameters, row.size, row.score, row.validation) for row in report.rows]


def test_a_job_runs_its_stages_in_order_with_a_row_and_artifacts_for_each(whole: tuple[list[Event], Path]) -> None:
    events, place = whole
    assert isinstance(events[0], Started)
    assert started(events) == [(stage, False) for stage in STAGES]
    told = [event for event in events if isinstance(event, StageStarted | ArtifactReady | StageFinished)]
    own = [next(types) for _, types in itertools.groupby(type(event) for event in told)]
    assert own[: 3 * len(STAGES)] == [StageStarted, ArtifactReady, StageFinished] * len(STAGES)
    fractions = [event.fraction for event in events if isinstance(event, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    report = report_of(events)
    assert [event.row for event in events if isinstance(event, StageFinished)] == list(report.rows)
    assert [event.artifact for event in events if isinstance(event, ArtifactReady)] == list(report.artifacts)
    baseline, quantized, pruned = report.rows
    assert (pruned.shape.ffn, pruned.shape.heads) == (baseline.shape.ffn // 2, baseline.shape.heads // 2)
    assert quantized.shape == baseline.shape
    for count, row in enumerate(report.rows, 1):
        assert isinstance(row.score, Score)
        assert isinstance(row.validation, Score)
        assert row.verdict is not None
        assert row.ratios.parameter_reduction == pytest.approx(1 - row.parameters.total / baseline.parameters.total)
        assert row.artifact == next(one.name for one in report.artifacts if one.stage == row.stage)
        assert before_of(place / "out", row.artifact).rows == rows_in_download(report, count)


def test_the_report_is_written_and_nothing_else_is_left(whole: tuple[list[Event], Path]) -> None:
    events, place = whole
    report = report_of(events)
    assert Report.model_validate_json((place / "out" / "report.json").read_text()) == report
    assert not (place / "out" / "scratch").exists()
    assert {path.name for path in (place / "out" / "artifacts").iterdir()} == {one.name for one in report.artifacts}
    assert {path.name for path in (place / "out" / "checkpoints").iterdir()} == set(STAGES)
    assert report.headline in {row.artifact for row in report.rows}
    assert (report.task, report.labels) == ("text-classification", ("negative", "positive"))
    assert report.uploaded.dtype == "bfloat16"
    assert report.splits["validation"].carved_from_train
    assert report.pruning["ffn"] == {"before": 64, "after": 32, "asked": 0.5, "taken": 0.5, "multiple": 8}


def test_a_stage_s_checkpoint_has_what_a_new_attempt_reports(whole: tuple[list[Event], Path]) -> None:
    events, place = whole
    report = report_of(events)
    for count, stage in enumerate(STAGES, 1):
        facts = StageCheckpoint.model_validate_json(unseal(place / "out" / "checkpoints" / stage / "state.json"))
        assert (facts.stage, facts.task, facts.labels) == (stage, report.task, report.labels)
        assert (facts.rows, list(facts.draws)) == (report.rows[:count], STAGES[:count])
        assert facts.artifacts == tuple(one for one in report.artifacts if one.stage in STAGES[:count])[: len(facts.artifacts)]
    assert facts.pruning == report.pruning


@pytest.mark.parametrize("ends", ["paused", "killed"])
def test_a_job_that_ends_within_a_stage_goes_on_from_the_one_before(
    ends: str, whole: tuple[list[Event], Path], tmp_path: Path, model: Path, how: dict[str, Any]
) -> None:
    """A pause may let the stage end first; then it is finished, and not done again."""
    seen: list[Event] = []
    asked = ends == "paused"

    def within() -> bool:
        return asked and bool(seen) and isinstance(seen[-1], Progress | StageFinished) and started(seen)[-1][0] == "quantized"

    attempt = watched(compress(job(tmp_path, model, how), tmp_path, within), tmp_path / "out")
    try:
        for event in attempt:
            seen.append(event)
            if not asked and isinstance(event, Progress) and event.stage == "pruned":
                break
    except Pause:
        assert asked
    done = [event.row for event in seen if isinstance(event, StageFinished)]
    assert 1 <= len(done) < len(STAGES)
    (tmp_path / "out" / "checkpoints").rename(tmp_path / "kept")
    shutil.rmtree(tmp_path / "out" / "artifacts")  # the supervisor has stored them
    again = list(watched(compress(job(tmp_path, model, how, resume="kept"), tmp_path), tmp_path / "out"))
    assert started(again) == [(stage, number < len(done)) for number, stage in enumerate(STAGES)]
    report = report_of(again)
    assert list(report.rows[: len(done)]) == done
    assert but_for_timing(report) == but_for_timing(report_of(whole[0]))
    assert len(report.artifacts) == len(report_of(whole[0]).artifacts)
    remade = {event.artifact.name for event in again if isinstance(event, ArtifactReady)}
    assert {event.stage for event in again if isinstance(event, Progress)} <= {"baseline", *STAGES[len(done) :]}
    for name in remade & {row.artifact for row in report.rows}:
        count = next(number for number, row in enumerate(report.rows, 1) if row.artifact == name)
        assert before_of(tmp_path / "out", name).rows == rows_in_download(report, count)


def damage_seal(place: Path) -> None:
    (place / "quantized" / "state.json").write_text((place / "quantized" / "state.json").read_text().replace("int8", "int4"))


def cut_short(place: Path) -> None:
    path = place / "quantized" / "state.json"
    path.write_text(path.read_text()[:-100])


@pytest.mark.parametrize("damage", [damage_seal, cut_short])
def test_a_damaged_checkpoint_costs_time_and_a_warning(
    damage: Callable[[Path], None], whole: tuple[list[Event], Path], tmp_path: Path, model: Path, how: dict[str, Any]
) -> None:
    for stage in STAGES[:2]:
        shutil.copytree(whole[1] / "out" / "checkpoints" / stage, tmp_path / "kept" / stage)
    damage(tmp_path / "kept")
    again = list(compress(job(tmp_path, model, how, resume="kept"), tmp_path))
    warnings = [event.message for event in again if isinstance(event, Log) and event.level == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("A checkpoint is not used: quantized")
    assert started(again) == [("baseline", True), ("quantized", False), ("pruned", False)]
    assert but_for_timing(report_of(again)) == but_for_timing(report_of(whole[0]))


def test_a_job_does_not_go_on_from_the_checkpoints_of_the_other_backend(
    whole: tuple[list[Event], Path], tmp_path: Path, model: Path, how: dict[str, Any]
) -> None:
    other = next(settings for settings in BACKENDS.values() if settings != how)
    spec = job(tmp_path, model, other, resume=str(whole[1] / "out" / "checkpoints"))
    seen = list(itertools.takewhile(lambda event: not isinstance(event, StageStarted | Progress), compress(spec, tmp_path)))
    warnings = [event.message for event in seen if isinstance(event, Log)]
    assert len(warnings) == len(STAGES)
    assert all("is of other work" in message for message in warnings)


NO_FILE = {"format": "jsonl", "splits": {"train": ["none.jsonl"], "test": ["none.jsonl"]}}
IMPOSSIBLE: dict[str, tuple[dict[str, Any], type[CompressionError], str | None]] = {
    "too long": ({"evaluate": {"length": 65}}, InvalidSpec, "evaluate.length"),
    "a language model's window": ({"evaluate": {"length": 16, "window": 32}}, InvalidSpec, "evaluate.window"),
    "a student that nobody teaches": ({"student": "model"}, InvalidSpec, "models.student"),
    "no such axis": ({"recipe": {**RECIPE, "prune": {"axes": ["experts"]}}}, UnsupportedShape, "recipe.prune.axes"),
    "no such file": ({"data": NO_FILE}, MissingFile, None),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_job_is_refused_before_any_stage(name: str, tmp_path: Path, model: Path, how: dict[str, Any]) -> None:
    changes, error, param = IMPOSSIBLE[name]
    events = compress(job(tmp_path, model, how, **changes), tmp_path)
    assert isinstance(next(events), Started)
    with pytest.raises(error) as caught:
        next(events)
    assert param is None or caught.value.param == param
