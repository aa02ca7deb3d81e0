"""A whole job whose layers keep feed-forward widths of their own: trained, shipped, killed and gone on, and served."""

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from transformers import AutoModelForSequenceClassification

from app.pages.report_page.page import About, render
from compression.engine.pipeline import compress
from compression.models.adapters.layer_widths import KEY
from compression.schema.events import Event, Log, StageStarted
from compression.schema.prediction_request import RowInputs
from compression.schema.report.report import Report
from compression.serving.served_model import ServedModel
from tests.support.attempts import UNSAVED, attempt
from tests.support.engine_jobs import RECIPE, report_of, spec_of, write_spec

FREE: dict[str, Any] = {
    **RECIPE,
    "prepare": {"epochs": 2, "rate": 3e-3},
    "prune": {"search": "solver", "free_widths": True, "target_params": 0.4, "multiple": 8, "calibration_rows": 64},
    "distill": {"epochs": 2, "rate": 3e-3, "general": {"epochs": 1, "attention": 0.0}},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, encoder: Path, reviews: Path) -> tuple[Path, Report]:
    place = tmp_path_factory.mktemp("whole")
    return place, report_of(compress(spec_of(encoder, reviews, recipe=FREE), place))


def test_the_rows_are_of_each_layers_width(whole: tuple[Path, Report]) -> None:
    rows = whole[1].rows
    assert [row.stage for row in rows] == ["baseline", "quantized", "pruned", "distilled"]
    cut = rows[-1].shape
    assert rows[0].shape.ffns is None
    assert cut.ffns is not None
    assert cut == rows[2].shape
    assert rows[-1].parameters.total <= 0.6 * rows[0].parameters.total
    assert rows[-1].flops < rows[0].flops
    assert [group["after"] for group in whole[1].pruning["ffn"]["groups"].values()] == [*cut.ffns]
    assert (whole[1].pruning["ffn"]["mean"], "mean" in whole[1].pruning["heads"]) == (True, False)
    assert "(mean of the layers)" in render(whole[1], About("job_1", "a job", {}, dt.datetime(2026, 12, 1, tzinfo=dt.UTC)))


def test_the_graph_is_narrow_and_the_checkpoint_says_that_it_is_not(whole: tuple[Path, Report]) -> None:
    place, report = whole
    last = report.rows[-1]
    artifacts = place / "out" / "artifacts"
    sizes = {tuple(one.dims) for one in onnx.load(artifacts / last.artifact / "model.onnx").graph.initializer}
    assert all((last.shape.hidden, units) in sizes for units in last.shape.ffns)
    (checkpoint,) = (one for one in report.artifacts if one.kind == "transformers")
    config = json.loads((artifacts / checkpoint.name / "config.json").read_text())
    assert (config["intermediate_size"], KEY in config) == (last.shape.ffn, False)
    more = sum(last.shape.ffn - units for units in last.shape.ffns) * (2 * last.shape.hidden + 1)
    (note,) = (note for note in last.notes if "filled with zeros" in note)
    assert f"{last.parameters.total:,} parameters" in note
    assert f"{last.parameters.total + more:,} parameters" in note


def test_the_graph_is_served(whole: tuple[Path, Report]) -> None:
    place, report = whole
    served = ServedModel(place / "out" / "artifacts" / report.rows[-1].artifact, threads=1)
    row, asked = served.encode(RowInputs(text="good"))
    assert served.predicted(row, asked, served.run(asked.windows))["label"] in served.labels


def test_each_stages_checkpoint_opens_with_the_stock_library(whole: tuple[Path, Report]) -> None:
    last = whole[1].rows[-1]
    model = AutoModelForSequenceClassification.from_pretrained(whole[0] / "out" / "checkpoints" / "distilled")
    more = sum(last.shape.ffn - units for units in last.shape.ffns) * (2 * last.shape.hidden + 1)
    assert sum(each.numel() for each in model.parameters()) == last.parameters.total + more


def test_a_job_that_is_killed_in_each_training_behind_the_cut_makes_the_same(
    tmp_path: Path, encoder: Path, reviews: Path, whole: tuple[Path, Report]
) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(whole[0] / "out" / "checkpoints", kept)
    shutil.rmtree(kept / "distilled")
    changes = {"recipe": FREE, "save_seconds": 0, "resume": str(kept)}
    for number, phase in enumerate(("general", "distill")):
        place = tmp_path / f"attempt-{number}"
        seen: list[Event] = attempt(place, kept, write_spec(place, encoder, reviews, **changes), phase)
        if number:
            assert any(isinstance(event, Log) and event.message.startswith("Training goes on from step") for event in seen)
    seen = list(compress(spec_of(encoder, reviews, **changes | UNSAVED), tmp_path))
    assert [event.stage for event in seen if isinstance(event, StageStarted) and event.resumed] == [
        "baseline",
        "quantized",
        "pruned",
    ]
    report, first = report_of(seen), whole[1]
    assert report.rows[-1].shape == first.rows[-1].shape
    assert [row.validation for row in report.rows] == [row.validation for row in first.rows]
    assert [row.score for row in report.rows] == [row.score for row in first.rows]


def test_a_size_that_is_searched_for_has_widths_of_its_own_after_a_kill_too(
    tmp_path: Path, encoder: Path, reviews: Path
) -> None:
    own = {key: value for key, value in FREE["prune"].items() if key != "target_params"} | {"ratio": 0.35}
    recipe = {**FREE, "prune": own, "auto": {"rounds": 1, "steps": 20, "budget_minutes": 1000}}
    changes = {"recipe": recipe, "targets": {"retention": 0.9}, "save_seconds": 0}
    kept, place = tmp_path / "kept", tmp_path / "attempt"
    kept.mkdir()
    attempt(place, kept, write_spec(place, encoder, reviews, **changes), "try size 1")
    report = report_of(compress(spec_of(encoder, reviews, **changes | UNSAVED, resume=str(kept)), tmp_path))
    assert report.sizes is not None
    (chosen,) = (one for one in report.sizes.tried if one.chosen)
    last = report.rows[-1]
    assert (chosen.shape, chosen.parameters) == (last.shape, last.parameters.total)
    assert any(one.shape.ffns is not None for one in report.sizes.tried)
    each = [group["after"] for group in report.pruning["ffn"]["groups"].values()]
    assert each == [*last.shape.each_ffn]


def test_several_sizes_have_widths_of_their_own(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    # An odd number of multiples of 8 fits into 55 % of the parameters: two equal widths are never the best of a smaller size.
    recipe = {**FREE, "prune": {**FREE["prune"], "target_params": 0.45, "points": 2}}
    report = report_of(compress(spec_of(encoder, reviews, recipe=recipe), tmp_path))
    rows = [row for row in report.rows if row.stage in ("distilled", "point2")]
    assert [one.shape for one in report.points] == [row.shape for row in rows]
    assert [one.parameters for one in report.points] == [row.parameters.total for row in rows]
    assert rows[-1].shape.ffns is not None
    assert all(large >= small for large, small in zip(*(row.shape.each_ffn for row in rows), strict=True))
    for row in rows:
        graph = onnx.load(tmp_path / "out" / "artifacts" / row.artifact / "model.onnx").graph
        sizes = {tuple(one.dims) for one in graph.initializer}
        assert all((row.shape.hidden, units) in sizes for units in row.shape.each_ffn)
