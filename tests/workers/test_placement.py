"""A job for a GPU waits beside a CPU worker, which takes its team's other job, and says what it waits for."""

from pathlib import Path

import httpx
import pytest

from tests.conftest import Service, wait_for
from tests.support.examples import TINY_RECIPE, send_data, send_model, tiny_model, tiny_splits


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_job_for_a_gpu_waits_and_says_so(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    service.settings["LATHE_DEVICE"] = "cpu"
    service.start_workers("jobs")
    model, data = send_model(http, tiny_model(tmp_path / "model")), send_data(http, tiny_splits())
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": TINY_RECIPE, "device": "cuda"}
    (worker,) = wait_for(lambda: [one for one in http.get("/v1/workers").json()["items"] if one["kind"] == "jobs"])
    device = worker["facts"]["device"]
    assert (device["kind"], device["lost"], worker["facts"]["devices"]) == ("cpu", None, [device["name"]])

    forecast = http.post("/v1/jobs?validate_only=true", json=body).json()
    assert [warning for warning in forecast["warnings"] if warning.startswith("device_absent: ")]
    assert forecast["estimate"]["card_bytes"] > 0
    waiting = http.post("/v1/jobs", json={**body, "priority": 9}).json()
    assert (waiting["device"], waiting["waits_for"]) == ("cuda", "device")
    other = http.post("/v1/jobs", json={**body, "device": "any"}).json()["id"]
    wait_for(lambda: http.get(f"/v1/jobs/{other}").json()["state"] == "running")
    http.post(f"/v1/jobs/{other}/cancel")
    wait_for(lambda: http.get(f"/v1/jobs/{other}").json()["state"] == "cancelled")
    found = http.get(f"/v1/jobs/{waiting['id']}").json()
    assert (found["state"], found["attempt"], found["waits_for"]) == ("queued", 0, "device")
