"""A package beside Lathe adds a kind of data, a model family, a stage and an exporter, and changes no file of Lathe.

The package is tests/support/toy_package: copy it to extend Lathe (docs/architecture.md).
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from tests.conftest import Service, wait_for
from tests.support import toy
from tests.support.examples import send_data, send_model

STAGES = ["baseline", "quantized", "pruned", "rounded", "distilled"]


def accuracy(logits: Any, rows: list[dict[str, Any]]) -> float:
    labels = [toy.LABELS.index(row["label"]) for row in rows]
    return float((logits.argmax(-1) == labels).mean())


def onnx_accuracy(folder: Path, test: bytes) -> float:
    """Score an artifact with onnxruntime alone."""
    rows = [json.loads(line) for line in test.splitlines()]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    features = np.array([row["features"] for row in rows], np.float32)
    return accuracy(session.run(["logits"], {"features": features})[0], rows)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.environment(tmp_path_factory.mktemp("toy") / "venv")


@pytest.fixture(scope="module")
def job(python: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A job of the engine alone in two attempts; its folder, and what happened."""
    place = tmp_path_factory.mktemp("job")
    toy.write_model(place / "model")
    for name, rows in toy.splits().items():
        (place / name).write_bytes(rows)
    splits = {name.split(".")[0]: [name] for name in toy.splits()}
    spec = {
        "task": "vector-classification",
        "model": "model",
        "data": {"format": "ndjson", "splits": splits},
        "recipe": toy.RECIPE,
        "output": "out",
        "threads": 1,
    }
    (place / "spec.json").write_text(json.dumps(spec))
    command = [python, "-m", "tests.support.toy_job", place]
    ran = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return place, json.loads((place / "told.json").read_text())


def test_a_modality_goes_through_every_stage_to_a_verified_and_measured_file(job: tuple[Path, dict[str, Any]]) -> None:
    place, _ = job
    report = json.loads((place / "again" / "report.json").read_text())
    first, *_, last = report["rows"]
    assert [row["stage"] for row in report["rows"]] == STAGES
    assert (first["shape"]["ffn"], last["shape"]["ffn"]) == (toy.UNITS, toy.UNITS // 2)
    assert last["parameters"]["total"] < 0.6 * first["parameters"]["total"]
    assert report["pruning"]["ffn"] == {"before": 64, "after": 32, "asked": 0.5, "taken": 0.5, "multiple": 8}
    assert "heads" not in report["pruning"]
    assert last["latency"]["runs"] > 1
    assert first["score"]["value"] > 0.8
    assert last["score"]["value"] > 0.8
    folder = place / "again" / "artifacts" / last["artifact"]
    assert onnx_accuracy(folder, toy.splits()["test.vectors"]) == last["score"]["value"]
    card = (folder / "README.md").read_text()
    assert "A classifier of feature vectors for 2 labels (left, right)" in card
    assert "token" not in json.loads((folder / "config.json").read_text())
    assert "Texts are cut" not in card
    assert "one scale a row (max / 127)" in card
    assert "latency, median of batch 1 |" in card


def test_a_stage_has_its_row_and_its_checkpoint(job: tuple[Path, dict[str, Any]]) -> None:
    place, told = job
    assert told["first"] == STAGES[:-1]
    assert told["resumed"] == {stage: stage != "distilled" for stage in STAGES}
    assert told["inputs"] == {stage: 1 if stage in STAGES[3:] else None for stage in STAGES}
    row = json.loads((place / "again" / "report.json").read_text())["rows"][3]
    assert row["notes"][0].startswith("20% of the weights became zero: validation ")
    weights = load_file(place / "out" / "checkpoints" / "rounded" / "model.safetensors")
    assert all((weights[f"layers.{layer}.up.weight"] == 0).mean() > 0.19 for layer in range(2))


def test_an_exporter_ships_one_more_artifact_with_its_own_figures(job: tuple[Path, dict[str, Any]]) -> None:
    place, _ = job
    report = json.loads((place / "again" / "report.json").read_text())
    (found,) = [artifact for artifact in report["artifacts"] if artifact["kind"] == "numpy"]
    assert (found["name"], found["stage"]) == ("distilled-numpy-int8", "distilled")
    assert found["score"]["rows"] == 64
    assert found["trained_as_shipped"]
    assert found["score"]["value"] == pytest.approx(report["rows"][-1]["score"]["value"], abs=0.05)
    folder = place / "again" / "artifacts" / found["name"]
    assert np.load(folder / "model.npz")["classifier.weight"].dtype == np.int8
    assert "The weights are arrays of NumPy, stored as int8." in (folder / "README.md").read_text()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_service_takes_checks_runs_and_returns_it(python: Path, service: Service, tmp_path: Path) -> None:
    """One job over HTTP for all three: uploads, forecast, the worker's confined engine, report page and download."""
    service.stop()
    service.cold, service.python = True, str(python)
    service.start_api()
    service.start_workers("checks", "keeper", "jobs")
    test = toy.splits()["test.vectors"]
    with service.client() as http:
        model = send_model(http, toy.write_model(tmp_path / "model"))
        data = send_data(http, toy.splits(), task="vector-classification", format="ndjson")
        assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
        body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": toy.RECIPE}
        planned = http.post("/v1/jobs?validate_only=true", json=body)
        assert planned.status_code == 200, planned.text
        place = f"/v1/jobs/{http.post('/v1/jobs', json=body).json()['id']}"
        wait_for(lambda: http.get(place).json()["state"] in {"succeeded", "failed", "cancelled"}, 300)
        done = http.get(place).json()
        assert done["state"] == "succeeded", (done["error"], service.log("jobs"))
        assert [row["stage"] for row in done["rows"]] == STAGES
        assert done["rows"][-1]["parameters"]["total"] == planned.json()["parameters"]["total"]
        artifacts = {artifact["name"]: artifact for artifact in http.get(f"{place}/artifacts").json()["items"]}
        assert {artifact["kind"] for artifact in artifacts.values()} == {"onnx", "transformers", "numpy"}
        last = artifacts[done["rows"][-1]["artifact"]]
        content = http.get(f"/v1/artifacts/{last['id']}/files/model.onnx").content
        (tmp_path / "model.onnx").write_bytes(content)
        assert onnx_accuracy(tmp_path, test) == done["rows"][-1]["score"]["value"]
        assert "vector-classification" in http.get("/openapi.json").text
        assert "toy-mlp" in {family["name"] for family in http.get("/v1/families").json()["items"]}
        page = http.get(f"{place}/report.html").text
        assert all(word in page for word in ("Rounded", "20% of the weights became zero"))
