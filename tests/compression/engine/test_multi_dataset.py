"""A job with several datasets: a model for each, their mean as its rows, and nothing done twice."""

import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from transformers import AutoModelForSequenceClassification

from compression.engine import shipping
from compression.engine.checkpoints import StageCheckpoint
from compression.engine.dataset_run import DatasetRun
from compression.engine.job import Job
from compression.engine.pipeline import compress
from compression.engine.stages.registry import job_progress
from compression.planning.quality_gate import WORST_LAST
from compression.schema.errors import InvalidSpec
from compression.schema.events import ArtifactReady, Event, Log, PartFinished, Progress, StageFinished, StageStarted
from compression.schema.job_spec import Spec
from compression.schema.recipe.presets import QUICK
from compression.schema.report.draws import SplitDraws, mean_split_draws, retention_interval
from compression.schema.report.measurements import Row, Score
from compression.schema.report.report import Report
from compression.schema.stages import Stage
from compression.system import process
from compression.system.progress import Step, run_silently
from compression.training.budget import Budget, Spent
from compression.training.save import TrainingCheckpointer
from tests.support import engine_jobs
from tests.support.engine_jobs import before_of, rows_in_download
from tests.support.measuring import briefly
from tests.support.tiny_bert import sentences, write_rows
from tests.support.toy_tasks import write


def spec_of(folder: Path, encoder: Path, **changes: Any) -> Spec:
    tasks = {"mood": "text-classification", "joy": "text-regression"}
    parts = [{"name": name, "task": task, "data": engine_jobs.asked_of("", name)["data"]} for name, task in tasks.items()]
    recipe = {**engine_jobs.RECIPE, "prepare": {"epochs": 3, "rate": 3e-3}, "prune": None, "distill": None}
    evaluate = {"length": 16, "metric": ["accuracy_f1", "auto"]}
    own = {"task": "several", "data": None, "parts": parts, "recipe": recipe, "evaluate": evaluate}
    own |= {"targets": {"quality_gate": {"max_drop": 0.3}}}
    return engine_jobs.spec_of(encoder, **{**own, **changes})


class Attempts(NamedTuple):
    """The events of an attempt that died between the parts of its second stage, those of the next, its report and output."""

    first: list[Event]
    second: list[Event]
    report: Report
    output: Path


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory, shallow: Path) -> Attempts:
    folder = tmp_path_factory.mktemp("several")
    for name in ("mood", "joy"):
        (folder / name).mkdir()
    write_rows(folder / "mood" / "train.jsonl", sentences(128, seed=1))
    write_rows(folder / "mood" / "test.jsonl", sentences(40, seed=2))
    write("text-regression", folder / "joy", train=128, test=30)
    first = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipping, "measure_artifact", briefly)
        for event in compress(spec_of(folder, shallow), folder):
            first.append(event)
            if isinstance(event, PartFinished) and event.stage == "quantized":
                break
        shutil.copytree(folder / "out" / "checkpoints", folder / "kept")
        shutil.rmtree(folder / "out")
        second = list(compress(spec_of(folder, shallow, resume="kept"), folder))
    return Attempts(first, second, second[-1].report, folder / "out")


def finished(events: list[Event]) -> list[Row]:
    return [event.row for event in events if isinstance(event, StageFinished)]


def test_a_stage_goes_across_the_parts_and_ends_with_one_row(attempts: Attempts) -> None:
    first = attempts.first
    told = [event for event in first if isinstance(event, ArtifactReady | PartFinished | StageFinished)]
    names = [event.artifact.name if isinstance(event, ArtifactReady) else event.type for event in told]
    baseline = ["baseline-onnx-float32-mood", "part_finished", "baseline-onnx-float32-joy", "part_finished", "stage_finished"]
    assert names == [*baseline, "quantized-onnx-int8-mood", "part_finished"]
    (row,) = finished(first)
    mood, joy = row.parts["mood"], row.parts["joy"]
    assert (mood.artifact, joy.artifact, row.artifact) == (names[0], names[2], names[0])
    judged = (mood.score.metric, mood.score.rows, joy.score.metric, joy.score.rows)
    assert judged == ("accuracy_f1", 40, "pearson_spearman", 30)
    assert mood.score.value == (mood.score.metrics["accuracy"] + mood.score.metrics["f1"]) / 2
    assert row.score.value == (mood.score.value + joy.score.value) / 2
    assert (row.score.metric, row.score.rows) == ("mean of parts", 70)
    files = {file.path for event in first if isinstance(event, StageFinished) for file in event.checkpoint}
    assert {"state.json", "mood/state.json", "mood/model.safetensors", "joy/state.json", "joy/model.safetensors"} <= files


def test_a_new_attempt_does_no_part_of_a_stage_again(attempts: Attempts) -> None:
    first, second, report, _ = attempts
    begun = [(event.stage, event.resumed) for event in second if isinstance(event, StageStarted)]
    assert begun == [("baseline", True), ("quantized", False)]
    told = {event.message for event in second if isinstance(event, Log)}
    assert "The baseline's artifact is written again: latency is held against it." in told
    # It is neither trained nor scored again.
    assert not [event for event in second if isinstance(event, Progress) and event.stage == "baseline"]
    logged = [event.message for event in second if isinstance(event, Log) and "already" in event.message]
    assert logged == ["mood had gone through quantized already."]
    made = [event.artifact.name for event in second if isinstance(event, ArtifactReady)]
    assert [name for name in made if "onnx" in name] == ["quantized-onnx-int8-joy"]
    assert (report.rows[:1], report.rows[1:]) == (tuple(finished(first)), tuple(finished(second)))
    fractions = [event.fraction for event in second if isinstance(event, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)


def test_the_report_tells_of_the_mean_and_of_each_part_and_its_download_holds_its_own_rows(attempts: Attempts) -> None:
    report, output = attempts.report, attempts.output
    assert (report.task, report.labels, report.splits) == ("several", (), {})
    (chosen,) = [row for row in report.rows if row.artifact == report.headline]
    assert report.headlines == {name: row.artifact for name, row in chosen.parts.items()}
    parts = [("mood", "text-classification", ("negative", "positive")), ("joy", "text-regression", ())]
    assert [(part.name, part.task, part.labels) for part in report.parts] == parts
    assert report.parts[1].splits["test"].rows == 30
    baseline, quantized = report.rows
    assert quantized.verdict is not None
    for name, part in quantized.parts.items():
        assert quantized.size.bytes == round(sum(each.size.bytes for each in quantized.parts.values()) / 2)
        assert part.ratios.size_reduction == pytest.approx(1 - part.size.bytes / baseline.parts[name].size.bytes)
    assert quantized.ratios.size_reduction == pytest.approx(1 - quantized.size.bytes / baseline.size.bytes)
    assert len(report.artifacts) == 6
    shipped = {artifact.part: artifact for artifact in report.artifacts if artifact.kind == "transformers"}
    open_stock = AutoModelForSequenceClassification.from_pretrained
    opened = {name: open_stock(output / "artifacts" / one.name) for name, one in shipped.items()}
    assert {name: model.config.num_labels for name, model in opened.items()} == {"mood": 2, "joy": 1}
    here = [one for one in report.artifacts if (output / "artifacts" / one.name).is_dir()]
    assert {(one.part, one.stage) for one in here} >= {("mood", "quantized"), ("joy", "quantized")}
    for one in here:
        before = before_of(output, one.name)
        assert (before.part, before.task) == (one.part, "text-regression" if one.part == "joy" else "text-classification")
        assert before.rows == rows_in_download(report, len(before.rows), one.part or "")
        assert [row.stage for row in before.rows] == (["baseline", "quantized"] if one.stage == "quantized" else ["baseline"])


def test_the_mean_has_an_interval_of_its_own_after_a_new_attempt_too(attempts: Attempts) -> None:
    report, output = attempts.report, attempts.output
    row = report.rows[1]
    kept = {name: draws_of(output, name) for name in row.parts}
    seeds = [draws.test.seed for draws in (kept[name]["baseline"] for name in ("mood", "joy")) if draws.test is not None]
    assert seeds == [0, 1]  # independent of each other
    before, after = (mean_split_draws([found[stage] for found in kept.values()]) for stage in STAGES)
    assert row.ratios.retention_interval == retention_interval(before.test, after.test)
    assert row.ratios.retention_on_validation_interval == retention_interval(before.validation, after.validation)
    assert row.ratios.retention_interval is not None
    validation = {name: part.validation for name, part in row.parts.items()}
    assert row.validation.value == sum(one.value for one in validation.values() if isinstance(one, Score)) / 2
    assert row.ratios.judged_on == "validation"


def test_a_quality_gate_judges_each_part_and_the_worst_counts(attempts: Attempts) -> None:
    baseline, quantized = attempts.report.rows
    assert baseline.gate is None
    found = {name: part.gate for name, part in quantized.parts.items()}
    assert {name: gate.original for name, gate in found.items()} == {name: row.artifact for name, row in baseline.parts.items()}
    first, last = baseline.parts["mood"].validation, quantized.parts["mood"].validation
    assert found["mood"].validation.drop == pytest.approx(first.value - last.value, abs=1e-6)
    assert found["mood"].validation.method == "bootstrap"
    assert found["joy"].status == "undecided"
    assert "too few to bound a correlation" in found["joy"].reason
    assert quantized.gate.status == max((gate.status for gate in found.values()), key=WORST_LAST.index)
    assert {one.part for one in attempts.report.artifacts if one.gate is None} == {"mood", "joy"}  # the originals


STAGES: tuple[Stage, Stage] = ("baseline", "quantized")


def draws_of(output: Path, part: str) -> dict[Stage, SplitDraws]:
    kept = json.loads((output / "checkpoints" / "quantized" / part / "state.json").read_text())
    return StageCheckpoint.model_validate_json(kept["body"]).draws


def test_each_part_learns_by_its_own_metric(attempts: Attempts, shallow: Path) -> None:
    folder = attempts.output.parent
    spec = spec_of(folder, shallow, output="opened")
    found = {asked.name: DatasetRun.open(spec, folder, asked) for asked in spec.asked}
    metrics = {name: part.state.rows["validation"].task.metric for name, part in found.items()}
    assert metrics == {"mood": "accuracy_f1", "joy": "pearson_spearman"}
    (card,) = (attempts.output / "artifacts").glob("quantized-transformers-*-mood/README.md")
    assert "accuracy_f1 on 40 test rows" in card.read_text()
    for metric, param in ((["auto", "f1"], "evaluate.metric.1"), (["auto"], "evaluate.metric"), ("f1", "evaluate.metric")):
        wrong = spec_of(folder, shallow, output="opened", evaluate={"length": 16, "metric": metric})
        with pytest.raises(InvalidSpec, check=lambda error, param=param: error.param == param):
            DatasetRun.open(wrong, folder, wrong.asked[1])


def test_a_specification_has_one_dataset_or_several(tmp_path: Path, shallow: Path) -> None:
    spec = spec_of(tmp_path, shallow)
    assert [part.name for part in spec.asked] == ["mood", "joy"]
    data = spec.parts[0].data.model_dump()
    alone = Spec.model_validate({**spec.model_dump(), "task": "text-classification", "data": data, "parts": []})
    assert [(part.name, part.task) for part in alone.asked] == [("", "text-classification")]
    twice = [part.model_dump() | {"name": "mood"} for part in spec.parts]
    for wrong in ({"data": data}, {"task": "text-regression"}, {"parts": []}, {"parts": twice}, {"parts": twice[:1]}):
        with pytest.raises(ValueError, match="part"):
            Spec.model_validate({**spec.model_dump(), **wrong})


def test_parts_share_the_limits_of_training() -> None:
    budget = Budget(max_steps=100, max_minutes=3, sharers=3)
    assert budget.steps_of(50) == 33
    assert budget.reached() is None
    budget.spent = Spent(steps=33)
    assert budget.reached() == "a share of 1/3 of recipe.train.max_steps (100)"
    budget.spent = Spent(seconds=60)
    assert budget.reached() == "a share of 1/3 of recipe.train.max_minutes (3)"


def test_training_of_one_part_is_not_taken_up_by_another(tmp_path: Path) -> None:
    assert not TrainingCheckpointer(tmp_path, "work", part="mood").is_at("tune")


def test_the_journey_goes_stage_by_stage_across_the_parts() -> None:
    splits = {"train": 100, "validation": 10, "test": 20}
    way = job_progress(QUICK, {"a": splits, "b": {**splits, "train": 300}})
    wanted = [(stage, part) for stage in engine_jobs.STAGES for part in ("a", "b")]
    assert [(phase.stage, phase.part) for phase in way.phases if phase.name == "export and measure"] == wanted
    reached = []
    for part in ("a", "b"):
        way.part = part
        reached += [event.fraction for event in way.emit("warm up the head", Step(0, 1))]  # quick names its rate
    assert reached[0] == 0 < reached[1]
    assert [phase.name for phase in way.phases[-2:]] == ["export other forms"] * 2


def test_memory_is_given_back_between_a_dataset_and_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[str]()

    class Backend:
        def __init__(self, name: str) -> None:
            self.data = SimpleNamespace(name=name)
            weakref.finalize(self, done.append, f"{name} is gone")

        @classmethod
        def open(cls, _spec: Any, _base: Path, asked: Any) -> "Backend":
            done.append(f"{asked.name} is opened")
            return cls(asked.name)

        def begin(self, *_: Any) -> None:
            pass

    place, none = SimpleNamespace(part=""), Any
    job: Any = Job(none, Path(), Backend, {}, place, SimpleNamespace(part=""), {}, Backend("mood"))  # type: ignore[arg-type]
    monkeypatch.setattr(process, "release_memory", lambda: done.append("memory is given back"))
    run_silently(job.enter(SimpleNamespace(name="mood")))
    assert done == []
    run_silently(job.enter(SimpleNamespace(name="joy")))
    assert done == ["mood is gone", "memory is given back", "joy is opened"]
