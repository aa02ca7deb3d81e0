"""A job that finds its size, over HTTP with real workers: its report has what it tried, its gate judges what is shipped."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.cli import main
from compression.schema.report.measurements import Shape
from tests.conftest import Service
from tests.support import examples
from tests.support.examples import send_data, send_model, tiny_splits
from tests.support.saying import says
from tests.workers.test_whole import finished

RECIPE = {
    "preset": "auto",
    "prepare": {"epochs": 2, "rate": 1e-3},
    "prune": {"multiple": 8, "calibration_rows": 64},
    "distill": {"epochs": 2, "rate": 1e-3, "general": {"epochs": 1}},
    "train": {"max_length": 32},
    "auto": {"rounds": 2, "steps": 8},
    "artifacts": [],
}


Told = Callable[..., tuple[int, str]]


def words(text: str) -> str:
    """Return a text without tags, on one line."""
    return " ".join(unescape(re.sub("<[^>]*>", "", text)).split())


@pytest.fixture
def told(service: Service, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Run a command of the terminal against the service; return its exit code and what it says, on one line."""
    home = {"LATHE_HOME": str(tmp_path / "client"), "LATHE_URL": service.url, "LATHE_KEY": service.database.key}
    for name, value in {**home, "COLUMNS": "4000"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return int(ended.value.code or 0), words(capsys.readouterr().out)

    return run


def reported(service: Service, http: httpx.Client, body: dict[str, Any], **targets: Any) -> tuple[str, dict[str, Any]]:
    """Run a job to its end; return its name and report."""
    answer = http.post("/v1/jobs", json={**body, "targets": {"retention": 0.6, **targets}, "budget_minutes": 600})
    assert answer.status_code == 202, answer.text
    done = finished(http, answer.json()["id"])
    assert done["state"] == "succeeded", (done["error"], service.log("jobs"))
    return done["id"], http.get(f"/v1/jobs/{done['id']}/report").json()


def tells_of_its_gate(http: httpx.Client, told: Told, job: str, report: dict[str, Any]) -> None:
    """Check that page and terminal say what the report does, and that only a paired test accepts."""
    gate, shipped = report["gate"], next(row for row in report["rows"] if row["artifact"] == report["headline"])
    assert gate == shipped["gate"]
    assert gate["original"] == report["rows"][0]["artifact"]
    assert gate["validation"]["rows"] == shipped["validation"]["rows"] == 64
    assert gate["test"]["rows"] == 96
    assert (gate["status"] == "accept") == (gate["validation"]["upper"] <= gate["max_drop"])
    page, (code, said) = words(http.get(f"/v1/jobs/{job}/report.html").text), told("wait", job, "--gate")
    for text in (page, said, told("report", job)[1]):
        says(text, f"{gate['status']}, against {gate['original']}. {gate['reason']}", "Sizes tried")
    assert code == (0 if gate["status"] == "accept" else 7)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_job_finds_its_size_within_its_budget_and_its_gate_is_told_everywhere(
    service: Service, http: httpx.Client, tmp_path: Path, told: Told
) -> None:
    service.start_workers("jobs")
    model, dataset = send_model(http, examples.tiny_model(tmp_path / "model")), send_data(http, tiny_splits())
    body = {"models": {"base": model["id"]}, "datasets": [dataset["id"]], "recipe": RECIPE, "evaluate": {"length": 8}}
    job, report = reported(service, http, body)
    sizes = report["sizes"]
    (chosen,) = [one for one in sizes["tried"] if one["chosen"]]
    assert {one["kind"] for one in sizes["tried"]} == {"short", "full"}
    assert chosen["parameters"] == report["rows"][-1]["parameters"]["total"] < report["rows"][0]["parameters"]["total"]
    assert sizes["minutes"] < sizes["budget_minutes"] == 600
    assert report["gate"]["max_drop"] == pytest.approx(0.4 * report["rows"][0]["validation"]["value"])
    page = http.get(f"/v1/jobs/{job}/report.html").text
    for one in sizes["tried"]:
        name, kept = (
            f"{Shape.model_validate(one['shape']).short}{', chosen' if one['chosen'] else ''}",
            f"{100 * one['kept']:.2f} ±",
        )
        cells = (f'<th scope="row">{name}</th>', f"<td>{one['kind']}</td>", f"<td>{one['steps']}</td>", f"<td>{kept}")
        assert [line for line in page.split("<tr>") if all(cell in line for cell in cells)], one
    tells_of_its_gate(http, told, job, report)

    bounds = report["gate"]["validation"]
    between = 0.9 * bounds["upper"] + 0.1 * max(bounds["lower"], 0.0)  # so that the same answers decide nothing
    job, report = reported(service, http, body, quality_gate={"max_drop": between, "confidence": 0.95})
    tells_of_its_gate(http, told, job, report)
    gate = report["gate"]
    assert gate["status"] == "undecided"
    assert gate["rows_needed"] > 64
    assert f"About {gate['rows_needed']:,} validation rows would decide" in gate["reason"]
