"""What is told of a job that asks for a device: its forecast's warning, what it waits for, its page, and the fleet's."""

import json
from typing import Any

import httpx
import pytest

from tests.app.api.conftest import Json, insert, problem, sql
from tests.app.api.test_pages import page_of
from tests.conftest import Service
from tests.support.saying import lacks, says

CARD: Json = {
    "kind": "cuda",
    "name": "NVIDIA A100-SXM4-80GB",
    "memory_bytes": 80 * 10**9,
    "capability": "8.0",
    "driver": "550.54.15",
    "runtime": "12.8",
    "dtypes": ["float32", "bfloat16"],
    "rates": {"float32": 19.5e12, "bfloat16": 3.12e14},
    "lost": None,
}


@pytest.fixture
def service(service: Service) -> Service:
    for table in ("workers", "events", "jobs"):
        sql(service, f"DELETE FROM {table}")
    return service


def worker(service: Service, name: str, **facts: Any) -> None:
    seen = {"started_at": "2126-01-01 00:00:00.000000", "seen_at": "2126-01-01 00:00:00.000000"}
    known = json.dumps({"confinement": "bubblewrap", "memory_bytes": 2**40, "cores": 96, **facts})
    insert(service, "workers", id=name, kind="jobs", host="h", pid=1, facts=known, drain=False, **seen)


def test_a_job_for_a_gpu_says_what_it_waits_for(
    service: Service, http: httpx.Client, browser: httpx.Client, request_body: Json
) -> None:
    worker(service, "wkr_cpu", devices=["Xeon"], device={"kind": "cpu", "name": "Xeon", "memory_bytes": 2**40})
    body = {**request_body, "device": "cuda"}
    warned = http.post("/v1/jobs?validate_only=true", json=body).json()
    assert [one for one in warned["warnings"] if one.startswith("device_absent: ") and "--device cuda:0" in one]
    assert warned["estimate"]["card_bytes"] > 0
    assert warned["estimate"]["host_bytes_with_card"] > 0
    made = http.post("/v1/jobs", json=body).json()
    assert (made["device"], made["waits_for"]) == ("cuda", "device")
    says(page_of(browser, f"/jobs/{made['id']}").text, "no online worker has a working GPU")
    says(browser.get(f"/jobs/{made['id']}").text, "<dt>Device</dt><dd>GPU</dd>")
    says(page_of(browser, "/jobs").text, "no online worker has a working GPU")

    worker(service, "wkr_gpu", devices=[CARD["name"]], device=CARD)
    assert http.get(f"/v1/jobs/{made['id']}").json()["waits_for"] is None
    quiet = http.post("/v1/jobs?validate_only=true", json=body).json()["warnings"]
    assert not [one for one in quiet if "_absent" in one]
    assert http.post("/v1/jobs", json=request_body).json()["device"] == "any"
    problem(http.post("/v1/jobs", json={**body, "device": "tpu"}), 422, "invalid_request", "device")


def test_the_fleet_shows_each_worker_s_device(service: Service, http: httpx.Client, browser: httpx.Client) -> None:
    worker(service, "wkr_gpu", devices=[CARD["name"]], device=CARD)
    worker(service, "wkr_lost", devices=["NVIDIA L4"], device={**CARD, "name": "NVIDIA L4", "lost": "Xid 79"})
    text = page_of(browser, "/fleet").text
    says(text, "NVIDIA A100-SXM4-80GB", "96 cores", "80.0 GB; compute capability 8.0; driver 550.54.15", "bfloat16 312")
    says(text, "lost: Xid 79")
    lacks(text, "lost: None")
    items = {item["id"]: item["facts"]["device"] for item in http.get("/v1/workers").json()["items"]}
    assert items["wkr_gpu"] == CARD
