"""A job that finds its size, over HTTP with real workers: its report has what it tried, its gate judges what is shipped."""

from pathlib import Path

import httpx
import pytest

from compression.schema.report.measurements import Shape
from tests.conftest import Service
from tests.support import examples
from tests.support.examples import send_data, send_model, tiny_splits
from tests.workers.test_whole import finished

RECIPE = {
    "preset": "auto",
    "prepare": {"epochs": 2, "rate": 1e-3},
    "prune": {"multiple": 8, "calibration_rows": 64},
    "distill": {"epochs": 2, "rate": 1e-3, "general": {"epochs": 1}},
    "train": {"max_length": 32},
    "auto": {"rounds": 2, "steps": 8},
}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_job_finds_its_size_within_its_budget(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    service.start_workers("jobs")
    model, dataset = send_model(http, examples.tiny_model(tmp_path / "model")), send_data(http, tiny_splits())
    body = {"models": {"base": model["id"]}, "datasets": [dataset["id"]], "recipe": RECIPE, "evaluate": {"length": 8}}
    answer = http.post("/v1/jobs", json={**body, "targets": {"retention": 0.6}, "budget_minutes": 600})
    assert answer.status_code == 202, answer.text
    done = finished(http, answer.json()["id"])
    assert done["state"] == "succeeded", (done["error"], service.log("jobs"))
    report = http.get(f"/v1/jobs/{done['id']}/report").json()
    sizes = report["sizes"]
    (chosen,) = [one for one in sizes["tried"] if one["chosen"]]
    assert {one["kind"] for one in sizes["tried"]} == {"short", "full"}
    assert chosen["parameters"] == report["rows"][-1]["parameters"]["total"] < report["rows"][0]["parameters"]["total"]
    assert sizes["minutes"] < sizes["budget_minutes"] == 600
    assert report["gate"]["status"] == report["rows"][-1]["gate"]["status"]
    rows = report["rows"][-1]["gate"]["validation"]["rows"]
    assert rows == report["rows"][-1]["validation"]["rows"] > 0
    assert report["gate"]["max_drop"] == pytest.approx(0.4 * report["rows"][0]["validation"]["value"])
    page = http.get(f"/v1/jobs/{done['id']}/report.html").text
    assert "Sizes tried" in page
    for one in sizes["tried"]:
        name, kept = (
            f"{Shape.model_validate(one['shape']).short}{', chosen' if one['chosen'] else ''}",
            f"{100 * one['kept']:.2f} ±",
        )
        cells = (f'<th scope="row">{name}</th>', f"<td>{one['kind']}</td>", f"<td>{one['steps']}</td>", f"<td>{kept}")
        assert [line for line in page.split("<tr>") if all(cell in line for cell in cells)], one
