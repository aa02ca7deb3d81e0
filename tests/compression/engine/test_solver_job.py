"""Jobs whose widths a solver chooses: killed behind the tables, gone on, and followed by a job with another target."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from compression.engine.pipeline import compress
from compression.engine.tables_checkpoint import FOLDER
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.search.costs import count_parameters
from compression.schema.errors import MissingResource
from compression.schema.events import Finished, Log, StageFinished, StageStarted, TablesSaved
from compression.schema.report.report import Report
from compression.schema.solved_search import SolvedSearch
from compression.system.sealed_folder import unseal
from tests.support.engine_jobs import RECIPE, report_of, spec_of
from tests.support.image_jobs import onnx_folder
from tests.support.image_uploads import image_splits
from tests.support.network_graphs import resnet

SPARED = "seconds were spared"


def recipe_of(**settings: Any) -> dict[str, Any]:
    prune = {"search": "solver", "multiple": 8, "calibration_rows": 64, **settings}
    short = {"prepare": {"epochs": 1, "rate": 3e-3}, "quantize": None, "prune": prune, "distill": None, "artifacts": []}
    return {**RECIPE, **short}


def notes_of(report: Report) -> str:
    return " ".join(report.rows[-1].notes)


def test_a_killed_job_goes_on_with_its_tables_and_a_later_one_reads_them_for_another_target(
    tmp_path: Path, shallow: Path, reviews: Path
) -> None:
    first = compress(spec_of(shallow, reviews, recipe=recipe_of(target_params=0.2)), tmp_path)
    for event in first:
        if isinstance(event, Log) and event.message.startswith("Error tables of"):
            break
    first.close()
    shutil.copytree(tmp_path / "out" / "checkpoints", tmp_path / "kept")
    assert (tmp_path / "kept" / FOLDER / "state.json").is_file()

    seen = list(compress(spec_of(shallow, reviews, recipe=recipe_of(target_params=0.2), resume="kept"), tmp_path))
    assert [event.stage for event in seen if isinstance(event, StageStarted) and event.resumed] == ["baseline"]
    report = report_of(seen)
    assert SPARED in notes_of(report)
    spared = report.rows[-1].tables
    assert (report.rows[0].tables, spared.reused, spared.seconds > 0, spared.rows) == (None, True, True, 64)
    assert 0 <= spared.spared < spared.seconds  # what layers read is collected again
    before, after = report.rows[0].parameters.total, report.rows[-1].parameters.total
    assert after <= 0.8 * before
    assert all("error" in group for group in report.pruning["ffn"]["groups"].values())

    spec = spec_of(shallow, reviews, recipe=recipe_of(target_params=0.4), resume="out/checkpoints", output="later")
    seen = list(compress(spec, tmp_path))
    told = [[file.path for file in event.files] for event in seen if isinstance(event, TablesSaved)]
    assert told == [["orders.safetensors", "state.json"], ["orders.safetensors", "solved.json", "state.json"]]
    assert [event.row.stage for event in seen if isinstance(event, StageFinished)] == ["pruned"]
    assert isinstance(seen[-1], Finished)
    assert SPARED in notes_of(report_of(seen))
    assert report_of(seen).rows[-1].parameters.total <= 0.6 * before
    assert (tmp_path / "later" / "checkpoints" / FOLDER / "state.json").is_file()

    # As the service offers them: from a folder of another job, without its checkpoints.
    shutil.copytree(tmp_path / "later" / "checkpoints" / FOLDER, tmp_path / "tables-0" / FOLDER)
    spec = spec_of(shallow, reviews, recipe=recipe_of(target_params=0.3), error_tables=["tables-1", "tables-0"], output="third")
    report = report_of(compress(spec, tmp_path))
    assert SPARED in notes_of(report)
    search = SolvedSearch.model_validate_json(unseal(tmp_path / "third" / "checkpoints" / FOLDER / "solved.json"))
    assert search.whole == report.rows[0].shape
    facts, kind = search.parameters, ARCHITECTURE_SPECS[search.family]
    counted = [count_parameters(facts, kind, None, row.shape).total for row in report.rows]
    assert counted == [row.parameters.total for row in report.rows]


def test_a_network_is_shipped_with_free_widths_within_two_targets(tmp_path: Path) -> None:
    onnx_folder(resnet((2, 2), 8), tmp_path / "sent")
    for name, content in image_splits().items():
        (tmp_path / name).write_bytes(content)
    data = {"format": "npz", "splits": {name: [f"{name}.npz"] for name in ("train", "validation", "test")}}
    recipe = {**recipe_of(axes=["channels", "hidden"], target_params=0.3, target_flops=0.3), "train": {"batch": 16}}
    spec = spec_of("sent", task="image-classification", data=data, recipe=recipe, evaluate={})
    report = report_of(compress(spec, tmp_path))
    baseline, cut = report.rows
    assert cut.parameters.total <= 0.7 * baseline.parameters.total
    assert cut.flops <= 0.72 * baseline.flops  # torch counts what the graph's facts leave out, too
    groups = {key: each for axis in report.pruning.values() for key, each in axis["groups"].items()}
    assert {key: each["after"] for key, each in groups.items()} == {key: cut.shape.widths[key] for key in groups}
    assert len({each["taken"] for each in groups.values()}) > 1
    assert "predicted error" in notes_of(report)


def test_a_latency_that_nothing_predicts_ends_a_job_before_anything_is_trained(
    tmp_path: Path, shallow: Path, reviews: Path
) -> None:
    seen: list[Any] = []
    with pytest.raises(MissingResource, match="needs a device table") as caught:
        seen.extend(compress(spec_of(shallow, reviews, recipe=recipe_of(target_latency={"speed_up": 2})), tmp_path))
    assert caught.value.param == "recipe.prune.search"
    assert not any(isinstance(event, StageFinished) for event in seen)
