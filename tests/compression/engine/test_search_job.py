"""Jobs whose widths a sampler or an agent chooses, with the solver beside it in the report."""

from pathlib import Path
from typing import Any

import pytest

from compression.engine.pipeline import compress
from compression.schema.errors import MissingResource
from compression.schema.events import StageStarted
from tests.support.engine_jobs import RECIPE, report_of, spec_of
from tests.support.image_jobs import onnx_folder
from tests.support.image_uploads import image_splits
from tests.support.network_graphs import resnet


def recipe_of(**settings: Any) -> dict[str, Any]:
    prune = {"multiple": 8, "calibration_rows": 64, "search_budget": {"evaluations": 40, "seconds": 600}, **settings}
    short = {"prepare": {"epochs": 1, "rate": 3e-3}, "quantize": None, "prune": prune, "distill": None, "artifacts": []}
    return {**RECIPE, **short}


def test_an_agent_chooses_the_widths_of_a_network_and_the_report_says_who_won(tmp_path: Path) -> None:
    onnx_folder(resnet((2, 2), 8), tmp_path / "sent")
    for name, content in image_splits().items():
        (tmp_path / name).write_bytes(content)
    data = {"format": "npz", "splits": {name: [f"{name}.npz"] for name in ("train", "validation", "test")}}
    recipe = {**recipe_of(search="rl", axes=["channels", "hidden"], target_params=0.3), "train": {"batch": 16}}
    spec = spec_of("sent", task="image-classification", data=data, recipe=recipe, evaluate={})
    baseline, cut = report_of(compress(spec, tmp_path)).rows
    assert cut.parameters.total <= 0.7 * baseline.parameters.total
    assert baseline.search is None
    assert (cut.search.chosen.search, cut.search.chosen.evaluations, cut.search.chosen.allowed) == ("rl", 40, 40)
    assert (cut.search.solver.search, cut.search.solver.evaluations) == ("solver", 1)
    assert cut.search.solver.error <= cut.search.chosen.error + 1e-9
    assert cut.search.won in ("solver", "tie")
    assert cut.search.told in cut.notes


def test_a_sampler_chooses_the_widths_of_an_encoder(tmp_path: Path, encoder: Path, reviews: Path) -> None:
    recipe = recipe_of(search="tpe", axes=["ffn", "layers"], target_params=0.2)
    baseline, cut = report_of(compress(spec_of(encoder, reviews, recipe=recipe), tmp_path)).rows
    assert cut.parameters.total <= 0.8 * baseline.parameters.total
    assert (cut.search.chosen.search, cut.search.chosen.evaluations) == ("tpe", 40)
    assert cut.search.chosen.error is not None


def test_a_job_without_the_package_fails_before_any_work(
    tmp_path: Path, encoder: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compression.schema.searches.find_spec", lambda name: None)
    seen = []
    with pytest.raises(MissingResource, match=r"prune\.search: nsga2 needs optuna") as caught:
        seen.extend(compress(spec_of(encoder, reviews, recipe=recipe_of(search="nsga2")), tmp_path))
    assert caught.value.param == "recipe.prune.search"
    assert not any(isinstance(event, StageStarted) for event in seen)
