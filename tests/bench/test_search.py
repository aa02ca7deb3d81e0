"""The bench of searches, on made tables of a small encoder and a small network: each run once, and kept."""

import math
from pathlib import Path
from typing import Any

import pytest

from bench import record_file
from bench.search.__main__ import against, main, run
from bench.search.tables import problem_of, resnet_spec
from compression.models.architectures.network_shapes import whole_shape
from compression.models.networks.costs import network_facts
from compression.planning.search.solver import solve
from compression.schema.recipe.prune import SearchBudget
from tests.compression.planning.search.made_problems import chain
from tests.compression.planning.search.test_spaces import SHAPE, of_encoder, of_network
from tests.support.network_graphs import resnet


def record_of(model: str) -> dict[str, Any]:
    if model == "encoder":
        found = {"model_type": "bert", "shape": SHAPE, "network": None, "table_rows": 66, "tables": of_encoder()}
    else:
        facts = network_facts(resnet((2, 2), 16))
        shape, tables = whole_shape(facts), of_network(facts)
        found = {"model_type": "network", "shape": shape, "network": facts, "table_rows": 0, "tables": tables}
    return {key: value.model_dump(mode="json") if hasattr(value, "model_dump") else value for key, value in found.items()}


@pytest.mark.parametrize("model", ["encoder", "resnet20"])
def test_each_search_is_run_once_and_stands_beside_the_solver(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_file.write(tmp_path / f"tables-{model}.json", record_of(model))
    options = ["--models", model, "--records", str(tmp_path), "--evaluations", "24", "--seconds", "0.3", "--seeds", "0", "1"]
    main(options)
    out = capsys.readouterr().out.splitlines()
    names = [f"{model}-{mode}-{search}-0" for mode in ("evaluations", "seconds") for search in ("solver", "tpe", "nsga2", "rl")]
    assert [line for line in out if line.endswith("-0")] == names
    kept = {name: record_file.read(tmp_path / f"{name}.json") for name in names}
    best = solve(problem_of(model, record_of(model))).error
    for name, found in kept.items():
        assert found is not None
        solves = name.endswith("-solver-0")
        assert found["evaluations"] == 1 if solves else found["evaluations"] == 24 or "-seconds-" in name
        assert found["error"] is None or found["error"] >= best - 1e-9
    assert kept[f"{model}-evaluations-solver-0"]["error"] == pytest.approx(best)
    rows = [line for line in out if line.startswith(f"| {model} | ")]
    assert len(rows) == 8
    main(options)
    assert capsys.readouterr().out.splitlines() == out[-10:]
    changed = record_of(model)
    changed["tables"]["digest"] = "e" * 64
    record_file.write(tmp_path / f"tables-{model}.json", changed)
    main(options)  # records of other tables are made again
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith("-0")] == names


def test_an_error_stands_against_the_solvers_even_if_that_is_none() -> None:
    assert (against(0.3, 0.2), against(0.0, 0.0), against(None, 0.2)) == (pytest.approx(1.5), 1.0, None)
    assert against(0.3, 0.0) == against(0.3, None) == math.inf


def test_what_is_out_of_reach_is_a_record_too() -> None:
    found = run(chain(0, share=0.01), "solver", SearchBudget(evaluations=5), 0)
    assert (found["error"], found["evaluations"], found["picks"]) == (None, 0, None)


def test_a_resnet_of_cifar_is_a_job_with_blocks(tmp_path: Path) -> None:
    vision = Path(__file__).parents[3] / "shared" / "data" / "vision"
    if not vision.is_dir():
        pytest.skip("the weights of bench/vision are not here")
    spec = resnet_spec("resnet20", vision, tmp_path)
    assert spec.recipe.prune is not None
    assert spec.recipe.prune.axes == ("channels", "layers")
    assert (tmp_path / "model" / "model.onnx").is_file()
