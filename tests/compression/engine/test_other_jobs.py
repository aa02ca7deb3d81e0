"""Whole jobs on a tiny model that end otherwise: unproven, without stages, refused, failed."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from compression.engine.commands.run import job
from compression.export.exporter import Exporter
from compression.schema.artifact_formats import ARTIFACT_FORMATS, ArtifactPrecision
from compression.schema.errors import CompressionError
from compression.schema.events import Log
from compression.schema.recipe.base import Task
from compression.schema.specs import FormatSpec
from tests.support.engine_jobs import RECIPE, events, report_of, start, write_spec


def test_one_epoch_proves_no_retention(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    recipe = {**RECIPE, "prepare": {"epochs": 1, "rate": 3e-3}, "prune": None, "distill": None}
    report = report_of(job(write_spec(tmp_path / "job", encoder, reviews, recipe=recipe)))
    baseline, quantized = report.rows
    assert baseline.preparation.converged is False
    for row in report.rows:
        assert row.ratios.baseline_not_converged
        assert "retention" in row.verdict.unproven
        card = (tmp_path / "job" / "out" / "artifacts" / row.artifact / "README.md").read_text()
        assert "**baseline_not_converged**" in card
    verdict = report.verdicts["retention"]
    assert (verdict.status, verdict.code, verdict.met) == ("unproven", "baseline_not_converged", False)
    assert report.verdicts["size_reduction"].status in ("met", "missed")
    offered = {remedy.key: remedy.proposed for remedy in quantized.verdict.remedies}
    assert offered["recipe.prepare.epochs"] is None
    assert "baseline_not_converged" in report.choice


class FullTape(Exporter):
    def write(self, model: PreTrainedModel, folder: Path, precision: ArtifactPrecision) -> None:
        raise RuntimeError("the tape is full")

    def opens_with(self, precision: ArtifactPrecision, task: Task, *, split: bool) -> str:
        return "nothing"


TAPE = FullTape()


def test_a_job_without_stages_ships_the_tuned_model_and_leaves_out_an_installed_format_that_fails(
    tmp_path: Path, encoder: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = FormatSpec("tape", engine=f"{__name__}:TAPE", runtime="none:none", runs_in="Nothing", weights=())
    monkeypatch.setitem(ARTIFACT_FORMATS, tape.name, tape)
    recipe = {**RECIPE, "quantize": None, "prune": None, "distill": None}
    kept = tmp_path / "nothing"
    (kept / "baseline").mkdir(parents=True)
    seen = list(job(write_spec(tmp_path / "job", encoder, reviews, recipe=recipe, resume=str(kept))))
    report = seen[-1].report
    assert [row.stage for row in report.rows] == ["baseline"]
    assert [artifact.precision for artifact in report.artifacts] == ["float32", "float32"]
    assert [event for event in seen if isinstance(event, Log) and event.level == "warning" and "not used" in event.message]
    assert "There is no tape artifact of baseline: the tape is full." in [log.message for log in seen if isinstance(log, Log)]
    assert {path.name for path in (tmp_path / "job" / "out" / "artifacts").iterdir()} == {one.name for one in report.artifacts}


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"recipe": {"prune": {"ratio": 7}}}, "invalid_spec", "recipe.prune.ratio"),
        ({"recipe": {"prun": {}}}, "invalid_spec", "recipe.prun"),
        ({"recipe": {"distill": {"gate": {"steps": 50}}}}, "invalid_spec", "recipe.distill.gate"),
        ({"recipe": {"remedy": "apply"}}, "invalid_spec", "recipe.remedy"),
        ({"evaluate": {"length": 1024}}, "invalid_spec", "evaluate.length"),
        ({"recipe": {"prune": {"ratio": 0.95, "multiple": 8}}}, "unsupported_shape", "recipe.prune.ratio"),
        ({"model": "nowhere"}, "missing_file", "config.json"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(
    tmp_path: Path, encoder: Path, reviews: Path, changes: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(CompressionError, check=lambda error: (error.code, error.param) == (code, param)):
        list(job(write_spec(tmp_path, encoder, reviews, **changes)))


def test_a_failed_job_says_so_on_the_pipe_and_by_its_exit_code(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    engine = start(write_spec(tmp_path, encoder, reviews, recipe={"train": {"batch": 0}}), stdout=subprocess.PIPE)
    printed, _ = engine.communicate()
    assert engine.returncode == 2
    (event,) = events(iter(printed.splitlines()))
    assert (event.code, event.param) == ("invalid_spec", "recipe.train.batch")
