"""A whole job on a tiny model, by the command that the workers start: rows, artifacts, checkpoints, other recipes."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from compression.engine import checkpoints, shipping
from compression.engine.checkpoints import StageCheckpoint
from compression.engine.commands.run import job
from compression.engine.job import Job
from compression.schema.events import ArtifactReady, Event, Log, StageFinished, StageStarted
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import Targets
from compression.schema.report.draws import retention_interval
from compression.schema.report.report import Report
from compression.schema.stages import Stage
from compression.system.sealed_folder import digest, seal, unseal
from tests.support.engine_jobs import RECIPE, STAGES, before_of, events, fork, rows_in_download, write_spec
from tests.support.measuring import briefly

OTHER = {**RECIPE, "distill": {**RECIPE["distill"], "epochs": 1, "hidden": 0.0}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, encoder: Path, reviews: Path) -> list[Event]:
    """A job that learns otherwise from its teacher, in this process."""
    spec = write_spec(tmp_path_factory.mktemp("alone"), encoder, reviews, recipe=OTHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipping, "measure_artifact", briefly)
        return list(job(spec))


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, encoder: Path, reviews: Path, alone: list[Event]
) -> tuple[list[Event], Path]:
    """One finished job, run as workers run it: events on a pipe of their own. Its graphs were traced in this process before."""
    assert alone
    spec = write_spec(tmp_path_factory.mktemp("job"), encoder, reviews)
    reader, writer = os.pipe()
    printed = spec.parent / "printed"
    with printed.open("wb") as out:
        engine = fork(spec, "--events-fd", str(writer), "--die-with-parent", stdout=out.fileno(), kept=[writer])
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        seen = list(events(pipe))
    assert engine.wait() == 0
    assert printed.read_text() == ""
    return seen, spec.parent / "out"


def test_a_job_has_a_row_for_each_stage(whole: tuple[list[Event], Path]) -> None:
    seen, output = whole
    assert [event.row.stage for event in seen if isinstance(event, StageFinished)] == STAGES
    report = seen[-1].report
    assert Report.model_validate_json((output / "report.json").read_text()) == report
    baseline, quantized, pruned, distilled = report.rows
    assert baseline.parameters == quantized.parameters
    assert pruned.parameters.total < 0.6 * baseline.parameters.total
    assert quantized.size.bytes < baseline.size.bytes
    assert distilled.size.bytes < quantized.size.bytes
    assert [len(row.ranges) for row in report.rows] == [0, 14, 14, 14]  # each linear layer, where integers are simulated
    # The tiny model's latency decides what is chosen, and that differs from run to run: whatever it is, all speaks of it.
    (chosen,) = [row for row in report.rows if row.artifact == report.headline]
    assert report.choice.find(chosen.stage) >= 0
    assert report.ratios == chosen.ratios
    assert report.ratios.parameter_reduction == pytest.approx(1 - chosen.parameters.total / baseline.parameters.total)
    assert [artifact.stage for artifact in report.artifacts if artifact.kind == "transformers"] == [chosen.stage]
    for row in report.rows:
        assert {*row.verdict.met, *row.verdict.missed, *row.verdict.unproven} == set(report.verdicts)
    assert set(chosen.verdict.met) == {name for name, verdict in report.verdicts.items() if verdict.met}
    assert report.splits["validation"].carved_from_train
    assert report.splits["test"].rows == 80
    assert report.pruning["heads"] == {"before": 4, "after": 2, "asked": 0.5, "taken": 0.5}
    assert set(report.verdicts) == {"parameter_reduction", "size_reduction", "speed_up", "retention"}


def test_each_row_is_scored_on_validation_too_and_says_how_sure_its_retention_is(whole: tuple[list[Event], Path]) -> None:
    report = Report.model_validate_json((whole[1] / "report.json").read_text())
    first = report.rows[0].validation
    for row in report.rows:
        assert (row.validation.metric, row.validation.rows) == (row.score.metric, report.splits["validation"].rows)
        assert row.score.rows == report.splits["test"].rows
        found = row.ratios
        assert found.judged_on == "validation"
        assert found.retention_on_validation == row.validation.value / first.value
        for kept in ("retention", "retention_on_validation"):
            share, interval = getattr(found, kept), getattr(found, f"{kept}_interval")
            assert interval[0] <= share <= interval[1]
            if row.stage == "baseline":
                assert interval == (1, 1)
        assert next(one for one in report.artifacts if one.name == row.artifact).validation == row.validation
        card = (whole[1] / "artifacts" / row.artifact / "README.md").read_text()
        assert f"accuracy on {row.validation.rows} validation rows, by which the job chooses" in card
        assert ("kept (95 % interval" in card) == (row.stage != "baseline")
    verdict = report.verdicts["retention"]
    assert (verdict.split, verdict.value) == ("validation", report.ratios.retention_on_validation)
    assert verdict.interval == report.ratios.retention_on_validation_interval
    assert "draws" not in (whole[1] / "report.json").read_text()


def test_the_draws_that_pair_rows_outlive_an_attempt(whole: tuple[list[Event], Path], tmp_path: Path) -> None:
    kept = json.loads((whole[1] / "checkpoints" / "distilled" / "state.json").read_text())
    facts = StageCheckpoint.model_validate_json(kept["body"])
    assert list(facts.draws) == STAGES
    baseline, last = facts.draws["baseline"], facts.draws["distilled"]
    assert retention_interval(baseline.test, last.test) == facts.rows[-1].ratios.retention_interval
    old = facts.model_dump(mode="json", exclude={"draws"})  # as before draws were kept
    assert StageCheckpoint.model_validate(old).draws == {}


def test_the_download_opens_with_stock_tools(whole: tuple[list[Event], Path]) -> None:
    report = Report.model_validate_json((whole[1] / "report.json").read_text())
    (chosen,) = [row for row in report.rows if row.artifact == report.headline]
    made = [("baseline", "onnx", "float32"), *((stage, "onnx", "int8") for stage in STAGES[1:])]
    assert [(one.stage, one.kind, one.precision) for one in report.artifacts] == [*made, (chosen.stage, "transformers", "int8")]
    for one in report.artifacts:
        for file in one.files:
            assert digest(whole[1] / "artifacts" / one.name / file.path) == file.sha256
    opened = AutoModelForSequenceClassification.from_pretrained(whole[1] / "artifacts" / report.artifacts[-1].name)
    assert opened.config.hidden_size == chosen.shape.hidden
    assert opened.config.id2label == {0: "negative", 1: "positive"}


def test_each_download_holds_its_before(whole: tuple[list[Event], Path]) -> None:
    report = Report.model_validate_json((whole[1] / "report.json").read_text())
    for number, one in enumerate(report.artifacts, 1):
        before = before_of(whole[1], one.name)
        assert (before.job, before.artifact, before.stage, before.part) == (None, one.name, one.stage, None)
        assert before.baseline == before.rows[0]
        assert before.rows == rows_in_download(report, number)  # the checkpoint, made at the end, has all four
        assert before.figures.score == one.score
        if number <= 4:
            row = report.rows[number - 1]
            assert (before.figures.size, before.figures.latency) == (row.size, row.latency)
        assert before.environment.items() >= report.environment.items()
        assert "before.json" in {file.path for file in one.files}
        assert (whole[1] / "artifacts" / one.name / "before.json").stat().st_size < 40_000


def test_the_card_has_both_columns(whole: tuple[list[Event], Path]) -> None:
    report = Report.model_validate_json((whole[1] / "report.json").read_text())
    baseline, *_, distilled = report.rows
    for one in report.artifacts:
        card = (whole[1] / "artifacts" / one.name / "README.md").read_text()
        assert ("## Before and after" in card) is (one.name != baseline.artifact)
    card = (whole[1] / "artifacts" / distilled.artifact / "README.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    table = {name: values for name, *values in cells if len(values) == 3}
    assert table["figure"] == [f"before (`{baseline.artifact}`)", "after (this artifact)", "change"]
    parameters, change = (baseline.parameters.total, distilled.parameters.total), distilled.ratios.parameter_reduction
    assert table["parameters"] == [*(f"{count:,}" for count in parameters), f"−{change:.1%}"]
    assert table["bytes of weights on disk"][:2] == [f"{row.size.bytes:,}" for row in (baseline, distilled)]
    scores = [f"{row.score.value:.2%}" for row in (baseline, distilled)]
    assert [cell.split(" ±")[0] for cell in table["accuracy on test"][:2]] == scores
    faster = [values[2] for name, values in table.items() if name.startswith("latency")]
    assert faster == [f"{distilled.ratios.speed_up:.2f}× as fast"]


def test_an_earlier_headline_is_shipped(whole: tuple[list[Event], Path], tmp_path: Path, encoder: Path, reviews: Path) -> None:
    spec = write_spec(tmp_path, encoder, reviews, resume=str(whole[1] / "checkpoints"), evaluate={"length": 16})
    opened = Job.open(Spec.model_validate_json(spec.read_text()), spec.parent)
    assert not [event for event in opened.resume() if isinstance(event, Log) and event.level == "warning"]
    # As if the cut had cost too much: rows whose scores fall below the quantized one's.
    worse = {"retention_on_validation": 0.5, "parameter_reduction": 0.0}
    opened.rows[2:] = [row.model_copy(update={"ratios": row.ratios.model_copy(update=worse)}) for row in opened.rows[2:]]
    opened.spec = opened.spec.model_copy(update={"targets": Targets(size_reduction=0, speed_up=1e-3)})
    seen = list(opened.ship_more())
    (ready,) = [event.artifact for event in seen if isinstance(event, ArtifactReady)]
    assert (ready.stage, ready.kind, ready.name) == ("quantized", "transformers", "quantized-transformers-int8")
    assert [event for event in seen if isinstance(event, Log) and "checkpoint of quantized" in event.message]
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "artifacts" / ready.name)
    assert found.config.hidden_size == 32  # the cut took half of it
    before = before_of(tmp_path / "out", ready.name)
    assert [row.stage for row in before.rows] == STAGES  # all that the job found out, also what was worse
    assert before.figures.score == ready.score
    report = opened.report()
    assert (report.headline, report.ratios) == ("quantized-onnx-int8", opened.rows[1].ratios)


def but_for_timing(report: Report) -> list[Any]:
    # Which stage was the best before depends on it, and how busy the machine was.
    timed = ("latency", "Against the targets", "cannot tell", "The machine was busy")
    return [
        (
            *(row.stage, row.shape, row.parameters, row.size, row.score, row.validation, row.preparation),
            *(row.ratios.retention_interval, row.ratios.retention_on_validation_interval),
            [note for note in row.notes if not any(word in note for word in timed)],
        )
        for row in report.rows
    ]


def test_a_job_goes_on_from_a_baseline_of_before_validation_was_scored(
    whole: tuple[list[Event], Path], tmp_path: Path, encoder: Path, reviews: Path
) -> None:
    """It is judged by test to its end, as it was then; its old rows have no draws, so nothing is paired."""
    kept = tmp_path / "kept"
    for stage in ("baseline", "quantized"):
        shutil.copytree(whole[1] / "checkpoints" / stage, kept / stage)
        facts = json.loads(unseal(kept / stage / "state.json"))
        del facts["draws"]
        for row in facts["rows"]:
            del row["validation"]
            for name in ("judged_on", "retention_on_validation", "retention_on_validation_interval", "retention_interval"):
                del row["ratios"][name]
        (kept / stage / "state.json").write_text(seal(json.dumps(facts)))
    seen = list(job(write_spec(tmp_path / "further", encoder, reviews, resume=str(kept))))
    assert [event.stage for event in seen if isinstance(event, StageStarted) and event.resumed] == ["baseline", "quantized"]
    report = seen[-1].report
    for row in report.rows:
        assert (row.validation, row.ratios.judged_on, row.ratios.retention_interval) == (None, "test", None)
    assert report.ratios.retention is not None
    verdict = report.verdicts["retention"]
    assert (verdict.split, verdict.value, verdict.interval) == ("test", report.ratios.retention, None)


def usable(whole: tuple[list[Event], Path], folder: Path, spec: Path) -> tuple[str | None, list[str]]:
    expected = checkpoints.fingerprints(Spec.model_validate_json(spec.read_text()), spec.parent)
    found, problems = checkpoints.latest(folder, ("baseline", "quantized", "pruned", "distilled"), expected)
    return (found.stage if found else None), problems


def test_a_wrong_checkpoint_is_not_used(whole: tuple[list[Event], Path], tmp_path: Path, encoder: Path, reviews: Path) -> None:
    spec = write_spec(tmp_path / "job", encoder, reviews)
    kept = tmp_path / "kept"
    shutil.copytree(whole[1] / "checkpoints", kept)
    assert usable(whole, kept, spec) == ("distilled", [])
    weights = bytearray((kept / "distilled" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (kept / "distilled" / "model.safetensors").write_bytes(weights)
    found, problems = usable(whole, kept, spec)
    assert found == "pruned"
    assert "distilled/model.safetensors" in problems[0]
    (kept / "pruned" / "state.json").write_text((kept / "pruned" / "state.json").read_text().replace("0.5", "0.6"))
    assert usable(whole, kept, spec)[0] == "quantized"
    other = write_spec(tmp_path / "other", encoder, reviews, recipe={**RECIPE, "distill": {"epochs": 4}})
    found, problems = usable(whole, kept, other)
    assert found == "quantized"
    other = write_spec(tmp_path / "tuned", encoder, reviews, recipe={**RECIPE, "prepare": {"epochs": 2}})
    found, problems = usable(whole, kept, other)
    assert found is None
    assert "other work" in problems[-1]


def test_another_recipe_goes_on_where_it_begins_to_differ(
    whole: tuple[list[Event], Path], alone: list[Event], tmp_path: Path, encoder: Path, reviews: Path
) -> None:
    """It comes to what it would have come to by itself."""
    kept = tmp_path / "kept"
    shutil.copytree(whole[1] / "checkpoints", kept)
    seen = list(job(write_spec(tmp_path / "further", encoder, reviews, recipe=OTHER, resume=str(kept))))
    assert [event.stage for event in seen if isinstance(event, StageStarted) and not event.resumed] == ["distilled"]
    assert [event.stage for event in alone if isinstance(event, StageStarted) and not event.resumed] == [*STAGES]
    assert but_for_timing(seen[-1].report) == but_for_timing(alone[-1].report)


@pytest.mark.parametrize(
    ("distill", "is_read"),
    [
        ({"temperature": 1.0}, True),
        ({"temperature": 3.0, "teachers": {"precision": "int8"}}, True),
        ({"temperature": 3.0, "spill_gib": 1.0}, True),
        ({"temperature": 3.0, "epochs": 9, "hidden": 0.0}, False),
    ],
)
def test_what_recovery_reads_of_distillation_is_part_of_the_cut_s_work(
    distill: dict[str, Any], is_read: bool, tmp_path: Path, encoder: Path, reviews: Path
) -> None:
    """Answers that it learns are softened at distill's temperature: a cut that was taught at another is other work."""

    def found(by: str, distill: dict[str, Any]) -> dict[Stage, str]:
        prune = {**RECIPE["prune"], "steps": 2, "recovery": {"epochs": 2, "by": by}}
        spec = write_spec(tmp_path, encoder, reviews, recipe={**RECIPE, "prune": prune, "distill": distill})
        return checkpoints.fingerprints(Spec.model_validate_json(spec.read_text()), tmp_path)

    for by, differs in (("teacher", is_read), ("labels", False)):
        before, after = found(by, {"temperature": 3.0}), found(by, distill)
        assert (before["pruned"] != after["pruned"]) == differs
        assert before["quantized"] == after["quantized"]
        assert before["distilled"] != after["distilled"]
