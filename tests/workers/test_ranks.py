"""A job of two processes under a real, confined worker: one is killed, and the job is tried again and succeeds."""

import contextlib
import os
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Service, wait_for
from tests.support.examples import TINY_RECIPE, send_data, send_model, tiny_model, tiny_splits
from workers.sandbox import find_obstacle

pytestmark = pytest.mark.skipif(find_obstacle("bubblewrap") is not None, reason=f"{find_obstacle('bubblewrap')}")


def other_processes(worker: int) -> list[psutil.Process]:
    """Return the training's processes beside the first: the engine's command line is the same but for this word."""
    found = []
    for process in psutil.Process(worker).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[3:4] == ["rank"]:
                found.append(process)
    return found


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_confined_job_survives_the_loss_of_a_process(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    service.cold = True  # the engine's own processes
    service.settings |= {
        "LATHE_DEVICE": "cpu",
        "LATHE_LEASE_SECONDS": "20",
        "LATHE_BACKOFF_SECONDS": "0.1",
        "LATHE_SAVE_SECONDS": "0",
    }
    service.start_workers("jobs")
    (worker,) = wait_for(lambda: [one for one in http.get("/v1/workers").json()["items"] if one["kind"] == "jobs"])
    assert worker["facts"]["train_devices"] == len(os.sched_getaffinity(0))
    model, data = send_model(http, tiny_model(tmp_path / "model")), send_data(http, tiny_splits())
    # One training of two processes; tests of training have those of all stages.
    recipe = {**TINY_RECIPE, "quantize": None, "prune": None, "distill": None, "artifacts": []}
    recipe |= {"train": {**TINY_RECIPE["train"], "devices": 2}}
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": recipe}

    many = {**body, "recipe": {**recipe, "train": {"devices": 64}}}
    refused = http.post("/v1/jobs", json=many)
    assert (refused.status_code, refused.json()["param"]) == (422, "recipe.train.devices")

    job = http.post("/v1/jobs", json=body).json()["id"]
    (other,) = wait_for(lambda: other_processes(worker["pid"]), 300)
    other.kill()

    def requeued() -> list[dict[str, Any]]:
        return [one for one in http.get(f"/v1/jobs/{job}/events").json()["items"] if one["type"] == "requeued"]

    (told,) = wait_for(requeued, 300)
    assert told["data"]["code"] == "rank_lost"
    wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded", 300)
    assert not other_processes(worker["pid"])
