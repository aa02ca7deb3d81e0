"""A job with a quality gate: each artifact is judged by a paired test on validation, also after a new attempt."""

import json
import shutil
from pathlib import Path

import pytest

from compression.engine import shipping
from compression.engine.checkpoints import StageCheckpoint
from compression.engine.commands.run import job
from compression.engine.paired_test import Original, judge_artifact
from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.scoring.paired import packed, unpacked
from compression.schema.events import ArtifactReady, Event, StageFinished
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.recipe.recipe import Targets
from compression.schema.report.draws import Draws, SplitDraws
from compression.schema.report.gate import NotPaired, PairedDrop
from compression.schema.report.measurements import Score
from compression.schema.report.report import Report
from tests.support.engine_jobs import RECIPE, write_spec
from tests.support.measuring import briefly

GATE = {"max_drop": 0.5, "confidence": 0.9}
ALONE = {**RECIPE, "prune": None, "distill": None}


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory, encoder: Path, reviews: Path) -> tuple[list[Event], Path]:
    """The events of an attempt that goes on from another one's baseline."""
    folder = tmp_path_factory.mktemp("gated")
    asked = {"recipe": ALONE, "targets": {"quality_gate": GATE}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipping, "measure_artifact", briefly)
        first = []
        for event in job(write_spec(folder, encoder, reviews, **asked)):
            first.append(event)
            if isinstance(event, StageFinished):
                break
        shutil.copytree(folder / "out" / "checkpoints", folder / "kept")
        shutil.rmtree(folder / "out")
        second = list(job(write_spec(folder, encoder, reviews, resume=str(folder / "kept"), **asked)))
    return first + second, folder / "out"


def test_every_artifact_but_the_original_has_a_verdict(gated: tuple[list[Event], Path]) -> None:
    seen, output = gated
    report = seen[-1].report
    baseline, quantized = report.rows
    assert baseline.gate is None
    made = {event.artifact.name: event.artifact for event in seen if isinstance(event, ArtifactReady)}
    assert {name for name, one in made.items() if one.gate is None} == {baseline.artifact}
    assert len(made) == 3  # the checkpoint of transformers too, in its own runtime
    for one in (*made.values(), quantized):
        if one.gate is not None:
            assert (one.gate.original, one.gate.max_drop, one.gate.confidence) == (baseline.artifact, 0.5, 0.9)
            assert isinstance(one.gate.validation, PairedDrop)
            assert one.gate.status == "accept"
    assert made[quantized.artifact].gate == quantized.gate
    shipped = next(row for row in report.rows if row.artifact == report.headline)
    assert report.gate == shipped.gate
    assert Report.model_validate_json((output / "report.json").read_text()).rows[1].gate == quantized.gate


def test_the_drop_is_that_of_the_scores_in_the_table(gated: tuple[list[Event], Path]) -> None:
    baseline, quantized = gated[0][-1].report.rows
    for drop, before, after in (
        (quantized.gate.validation, baseline.validation, quantized.validation),
        (quantized.gate.test, baseline.score, quantized.score),
    ):
        assert isinstance(before, Score)
        assert drop.drop == pytest.approx(before.value - after.value)
        assert (drop.rows, drop.method) == (before.rows, "bounded mean")
        assert drop.lower < drop.drop < drop.upper


def test_checkpoints_keep_the_answers_of_each_row(gated: tuple[list[Event], Path]) -> None:
    output = gated[1]
    state = json.loads((output / "checkpoints" / "quantized" / "state.json").read_text())
    kept = StageCheckpoint.model_validate_json(state["body"])
    for stage, row in zip(("baseline", "quantized"), kept.rows, strict=True):
        for draws, score in ((kept.draws[stage].validation, row.validation), (kept.draws[stage].test, row.score)):
            predicted, expected = unpacked(draws.by_row).T
            assert (predicted == expected).mean() == pytest.approx(score.value)


LABELLED = ClassScorer("accuracy", 2, None)


def draws(rows: int = 100, *, kept: bool = True, seed: int = 0) -> Draws:
    figures = [[row % 2, row % 2] for row in range(rows)]
    return Draws(rows=rows, seed=seed, values=(1.0,), by_row=packed(figures) if kept else None)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (None, draws(), "The original has no answers to the validation rows"),
        (draws(), None, "The artifact has no answers to the validation rows"),
        (draws(kept=False), draws(), "The original's validation rows were scored without keeping the figures of each row"),
        (draws(), draws(90), "Too few validation rows make pairs: the original on 100, the artifact on 90"),
    ],
)
def test_without_pairs_the_verdict_is_undecided_and_says_why(before: Draws | None, after: Draws | None, reason: str) -> None:
    original = Original("baseline-onnx-float32", SplitDraws(validation=before, test=draws()))
    found = judge_artifact(QualityGate(max_drop=1.0), LABELLED, original, SplitDraws(validation=after, test=draws()))
    assert found.status == "undecided"
    assert isinstance(found.validation, NotPaired)
    assert found.reason.startswith(reason)
    assert isinstance(found.test, PairedDrop)


def test_a_job_without_a_gate_keeps_no_figures_of_rows_and_its_checkpoints_stay_valid() -> None:
    assert "quality_gate" not in Targets().model_dump(mode="json")
    assert set(draws(kept=False).model_dump()) == {"rows", "seed", "values"}
