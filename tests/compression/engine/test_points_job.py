"""Jobs that make several sizes: cut from each other, killed in each training and gone on, and shipped side by side."""

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from compression.engine.checkpoints import StageCheckpoint
from compression.engine.context import StageContext
from compression.engine.pipeline import compress
from compression.engine.stages import points
from compression.planning.front import front_of
from compression.schema.errors import DeviceError, TrainingDiverged
from compression.schema.events import Event, Log, Progress, StageStarted
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Targets
from compression.schema.report.averages import mean_row
from compression.schema.report.measurements import Row
from compression.schema.report.report import Report
from compression.schema.solved_search import SolvedSearch
from compression.system.interrupts import Pause
from compression.system.sealed_folder import STATE, unseal
from tests.client.figures import several
from tests.compression.engine import test_language_job as language
from tests.support.attempts import UNSAVED, attempt
from tests.support.engine_jobs import RECIPE, asked_of, report_of, spec_of, write_spec
from tests.support.image_jobs import onnx_folder
from tests.support.image_uploads import image_splits
from tests.support.network_graphs import resnet
from tests.support.tiny_bert import sentences, write_rows

PRUNE: dict[str, Any] = {
    "search": "solver",
    "points": 3,
    "axes": ["heads", "hidden", "ffn"],
    "target_params": 0.5,
    "multiple": 8,
    "calibration_rows": 64,
}
POINTS: dict[str, Any] = {
    **RECIPE,
    "prepare": {"epochs": 2, "rate": 3e-3},
    "prune": PRUNE,
    "distill": {"epochs": 2, "rate": 3e-3, "general": {"epochs": 1, "attention": 0.0}, "teachers": {"seeds": 2}},
}
SIZES = ["distilled", "point2", "point3"]
TARGETS = {"retention": 0.7}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shallow: Path, reviews: Path) -> tuple[Path, list[Event]]:
    place = tmp_path_factory.mktemp("whole")
    return place, list(compress(spec_of(shallow, reviews, recipe=POINTS, targets=TARGETS), place))


def test_one_job_ships_several_sizes_that_are_cut_from_each_other(whole: tuple[Path, list[Event]]) -> None:
    place, seen = whole
    report = report_of(seen)
    rows = {row.stage: row for row in report.rows}
    assert list(rows) == ["baseline", "quantized", "pruned", *SIZES]
    totals = [row.parameters.total for row in report.rows]
    assert totals[0] == totals[1] > totals[2] == totals[3] > totals[4] > totals[5]
    assert totals[5] <= 0.5 * totals[0] < totals[4]
    assert rows["pruned"].shape == rows["distilled"].shape

    assert [one.stage for one in report.points] == SIZES
    assert [one.shape for one in report.points] == [rows[stage].shape for stage in SIZES]
    assert [one.parameters for one in report.points] == totals[3:]
    assert [one.error for one in report.points] == sorted(one.error for one in report.points)
    for larger, smaller in zip(report.points, report.points[1:], strict=False):
        assert smaller.shape.ffn <= larger.shape.ffn
        assert smaller.shape.hidden <= larger.shape.hidden

    made = {one.stage: one for one in report.artifacts if one.kind == "onnx"}
    for stage in SIZES:
        assert (place / "out" / "artifacts" / rows[stage].artifact / "model.onnx").is_file()
        assert made[stage].score == rows[stage].score  # on test, of this very artifact
        assert made[stage].validation == rows[stage].validation
        assert made[stage].trained_as_shipped


def test_tables_and_the_general_phase_are_of_all_sizes_and_teachers_are_asked_for_each(whole: tuple[Path, list[Event]]) -> None:
    report = report_of(whole[1])
    notes = {row.stage: " ".join(row.notes) for row in report.rows}
    assert [stage for stage, told in notes.items() if "Error tables of" in told] == ["pruned"]
    assert [stage for stage, told in notes.items() if "General phase on" in told] == ["distilled"]
    assert [stage for stage, told in notes.items() if "Teachers, with validation" in told] == SIZES
    assert "3 sizes, each of which contains the next" in notes["pruned"]
    assert "Cut from distilled to" in notes["point2"]
    assert "Cut from point2 to" in notes["point3"]
    phases = {event.stage: event.phase for event in whole[1] if isinstance(event, Progress) and event.phase == "general"}
    assert list(phases) == ["distilled"]
    stored = SolvedSearch.model_validate_json(unseal(whole[0] / "out" / "checkpoints" / "tables" / "solved.json"))
    assert stored.error == report.points[-1].error  # of what the recipe asks for, as without further sizes


def test_the_smallest_size_that_keeps_the_target_is_the_best_and_is_shipped(whole: tuple[Path, list[Event]]) -> None:
    report = report_of(whole[1])
    assert report.front is not None
    assert list(report.front.stages) == SIZES
    keeping = [row for row in report.front_rows if row.ratios.retention_on_validation >= 0.7]
    assert keeping, "otherwise this shows nothing"
    best = min(keeping, key=lambda row: row.parameters.total)
    assert report.front.recommended == best.stage
    assert report.front.why in report.choice
    assert report.headline == best.artifact
    own = next(one for one in report.points if one.stage == best.stage)
    assert report.pruning == own.pruning
    assert report.pruning["ffn"]["after"] == best.shape.ffn
    assert not any(row.verdict.remedies for row in report.rows if row.stage in SIZES[:-1])


def test_a_job_that_is_killed_in_the_training_of_each_size_goes_on_there_and_makes_the_same(
    tmp_path: Path, shallow: Path, reviews: Path, whole: tuple[Path, list[Event]]
) -> None:
    kept, first = tmp_path / "kept", report_of(whole[1])
    shutil.copytree(whole[0] / "out" / "checkpoints", kept)
    for stage in SIZES:
        shutil.rmtree(kept / stage)
    changes = {"recipe": POINTS, "targets": TARGETS, "save_seconds": 0, "resume": str(kept)}
    for number, stage in enumerate(SIZES):
        place = tmp_path / f"attempt-{number}"
        seen = attempt(place, kept, write_spec(place, shallow, reviews, **changes), "distill", stage)
        if number:
            assert any(isinstance(event, Log) and event.message.startswith("Training goes on from step") for event in seen)
    seen = list(compress(spec_of(shallow, reviews, **changes | UNSAVED), tmp_path))
    resumed = [event.stage for event in seen if isinstance(event, StageStarted) and event.resumed]
    assert resumed == ["baseline", "quantized", "pruned", "distilled", "point2"]
    report = report_of(seen)
    assert report.points == first.points
    assert [row.validation for row in report.rows] == [row.validation for row in first.rows]
    assert [row.score for row in report.rows] == [row.score for row in first.rows]
    last = [note for note in report.rows[-1].notes if "Cut from point2" in note]
    assert last == [note for note in first.rows[-1].notes if "Cut from point2" in note]


def without_point3(whole: tuple[Path, list[Event]], place: Path) -> str:
    """Return a copy of a job's checkpoints in which its last size is not done."""
    kept = place / "kept"
    shutil.copytree(whole[0] / "out" / "checkpoints", kept)
    shutil.rmtree(kept / "point3")
    return str(kept)


@pytest.fixture
def failed(
    tmp_path: Path, shallow: Path, reviews: Path, whole: tuple[Path, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Iterator[Event]]:
    """Run a finished job's last size again, whose training fails by the given problem."""

    def job(problem: Exception, **own: Any) -> Iterator[Event]:
        monkeypatch.setattr(points, "distilled", failing(problem))
        asked = {"recipe": POINTS, "targets": TARGETS, "resume": without_point3(whole, tmp_path), **own}
        return compress(spec_of(shallow, reviews, **asked), tmp_path)

    return job


@pytest.mark.parametrize("problem", [TrainingDiverged("the loss is not finite"), MemoryError()])
def test_a_size_that_cannot_be_trained_ends_the_sizes_and_not_the_job(
    problem: Exception, tmp_path: Path, whole: tuple[Path, list[Event]], failed: Callable[..., Iterator[Event]]
) -> None:
    seen = list(failed(problem, split_batches=4))
    report, first = report_of(seen), report_of(whole[1])
    assert report.rows == first.rows[:-1]
    assert list(report.front.stages) == SIZES[:2]
    assert report.points == first.points[:2]
    assert report.headline == next(row.artifact for row in report.rows if row.stage == report.front.recommended)
    said = "There is no smaller size than point2: point3 failed ("
    assert [note for note in report.notes if note.startswith(said)]
    assert [event.level for event in seen if isinstance(event, Log) and event.message.startswith(said)] == ["warning"]
    further = {one.kind: one for one in report.artifacts if one.kind != "onnx"}
    assert {one.stage for one in further.values()} == {report.front.recommended}
    stored = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "artifacts" / further["transformers"].name)
    assert sum(each.numel() for each in stored.parameters()) == report.front_rows[-1].parameters.total
    assert stored.bert.embeddings.LayerNorm.weight.any()  # of the checkpoint, not of the training that failed


@pytest.mark.parametrize(
    "problem", [MemoryError(), Pause(), DeviceError("it broke"), OSError(errno.ENOSPC, "full"), KeyError(1)]
)
def test_what_another_attempt_may_mend_is_not_the_end_of_the_sizes(
    problem: Exception, failed: Callable[..., Iterator[Event]]
) -> None:
    with pytest.raises(type(problem)) as raised:
        list(failed(problem))
    assert raised.value is problem


def failing(problem: Exception) -> Callable[..., Iterator[Event]]:
    """Return a training that begins and fails."""

    def training(context: StageContext, settings: Distill) -> Iterator[Event]:
        context.model.apply(lambda module: [own.data.zero_() for own in module.parameters(recurse=False)])
        yield Log(message="It begins.")
        raise problem

    return training


def test_the_checkpoint_of_a_size_opens_with_the_stock_library(whole: tuple[Path, list[Event]]) -> None:
    place, report = whole[0] / "out" / "checkpoints", report_of(whole[1])
    for row in report.front_rows:
        model = AutoModelForSequenceClassification.from_pretrained(place / row.stage)
        assert sum(each.numel() for each in model.parameters()) == row.parameters.total
    facts = StageCheckpoint.model_validate_json(unseal(place / "point3" / STATE))
    assert facts.pruning == report.points[-1].pruning


def test_a_network_is_shipped_in_two_sizes_with_free_widths(tmp_path: Path) -> None:
    onnx_folder(resnet((2, 2), 8), tmp_path / "sent")
    for name, content in image_splits().items():
        (tmp_path / name).write_bytes(content)
    data = {"format": "npz", "splits": {name: [f"{name}.npz"] for name in ("train", "validation", "test")}}
    prune = {**PRUNE, "points": 2, "axes": ["channels", "hidden"], "target_params": 0.5, "target_flops": 0.4}
    recipe = {
        "prepare": {"epochs": 1, "rate": 3e-3},
        "quantize": None,
        "prune": prune,
        "distill": {"epochs": 1, "rate": 3e-3, "general": None},
        "train": {"batch": 16},
    }
    spec = spec_of("sent", task="image-classification", data=data, recipe=recipe, evaluate={})
    report: Report = report_of(compress(spec, tmp_path))
    whole, _, larger, smaller = report.rows
    assert smaller.parameters.total <= 0.5 * whole.parameters.total < larger.parameters.total < whole.parameters.total
    assert all(smaller.shape.widths[key] <= width for key, width in larger.shape.widths.items())


def test_each_of_two_datasets_has_its_sizes_and_their_means_say_which_is_the_best(
    tmp_path: Path, shallow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("mood", "tone")):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "train.jsonl", sentences(96, seed=number))
        write_rows(tmp_path / name / "test.jsonl", sentences(30, seed=number + 5))
    parts = [{"name": name, "task": "text-classification", "data": asked_of("", name)["data"]} for name in ("mood", "tone")]
    taught = {"epochs": 1, "rate": 3e-3, "teachers": {"precision": "int8"}}
    recipe = {**POINTS, "prepare": {"epochs": 1, "rate": 3e-3}, "prune": {**PRUNE, "points": 2}, "distill": taught}
    own = {"task": "several", "data": None, "parts": parts, "recipe": recipe}
    report = report_of(compress(spec_of(shallow, **own), tmp_path))
    assert [row.stage for row in report.rows][-2:] == ["distilled", "point2"]
    assert report.points == ()
    for part in report.parts:
        assert [one.shape for one in part.points] == [row.parts[part.name].shape for row in report.rows[-2:]]
    assert list(report.front.stages) == ["distilled", "point2"]
    keeping = [row for row in report.rows[-2:] if row.ratios.retention_on_validation >= report.targets.retention]
    most = max(report.rows[-2:], key=lambda row: (row.ratios.retention_on_validation, -row.parameters.total))
    assert report.front.recommended == (keeping[-1] if keeping else most).stage
    for row in report.rows[-2:]:
        assert row.parameters.total == mean(part.parameters.total for part in row.parts.values())
        assert all(any("held in 8 bits" in note for note in part.notes) for part in row.parts.values())
        assert {one.part for one in report.artifacts if one.stage == row.stage} >= {"mood", "tone"}
    made = {one.name for one in report.artifacts}
    assert {*report.headlines.values()} <= made

    kept = tmp_path / "kept"  # the second dataset's training of the second size fails: the first one's is in no row
    shutil.copytree(tmp_path / "out" / "checkpoints", kept)
    (kept / "point2" / STATE).unlink()
    shutil.rmtree(kept / "point2" / "tone")
    monkeypatch.setattr(points, "distilled", failing(TrainingDiverged("the loss is not finite")))
    ended = report_of(compress(spec_of(shallow, **own, resume=str(kept)), tmp_path))
    assert [row.stage for row in ended.rows][-1] == "distilled"
    assert ended.front is None
    assert [one.stage for part in ended.parts for one in part.points] == ["distilled", "distilled"]
    assert [note for note in ended.notes if "point2 failed (training_diverged: tone: the loss is not finite)" in note]
    assert {*ended.headlines.values()} <= {one.name for one in ended.artifacts}


def test_the_best_size_of_two_datasets_is_that_of_the_means_and_of_neither() -> None:
    wanted, rows = Targets(retention=0.99), list[Row]()
    mood, tone = several(0.999, 0.985, 0.97).rows, several(0.999, 0.999, 0.995).rows
    for own, other in zip(mood, tone, strict=True):
        rows.append(mean_row({"mood": own, "tone": other}, rows[0] if rows else None))
    assert [front_of(each, wanted).recommended for each in (mood, tone, rows)] == ["distilled", "point3", "point2"]


def test_a_language_model_is_shipped_in_two_sizes(tmp_path: Path) -> None:
    language.write(tmp_path, intermediate_size=64)
    prune = {"search": "solver", "points": 2, "axes": ["ffn"], "ratio": 0.6, "multiple": 8, "calibration_rows": 16}
    recipe = {
        "prepare": {"epochs": 1, "rate": 1e-2},
        "prune": prune,
        "distill": {"epochs": 1, "rate": 1e-3},
        "train": {"batch": 8, "max_length": 48},
    }
    report = report_of(compress(language.spec_of(recipe), tmp_path))
    distilled, smaller = report.rows[-2:]
    assert (distilled.stage, smaller.stage) == ("distilled", "point2")
    assert smaller.shape.ffn < distilled.shape.ffn < report.rows[0].shape.ffn
    assert [one.shape for one in report.points] == [distilled.shape, smaller.shape]
    assert {one.stage for one in report.artifacts} >= {"distilled", "point2"}
