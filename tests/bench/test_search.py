"""The bench of searches, on made tables of a small encoder and a small network: each run once, and kept."""

from pathlib import Path
from typing import Any

import pytest

from bench import record_file
from bench.search.__main__ import main
from bench.search.tables import problem_of
from compression.models.architectures.network_shapes import whole_shape
from compression.models.networks.costs import network_facts
from compression.planning.search.solver import solve
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


@pytest.mark.parametrize("model", ["encoder", "resnet"])
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
