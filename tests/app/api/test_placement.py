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


def test_more_devices_than_a_worker_has_are_refused_by_field(
    service: Service, http: httpx.Client, browser: httpx.Client, request_body: Json
) -> None:
    quick = {one["name"]: one["recipe"] for one in http.get("/v1/recipes").json()["items"]}["quick"]

    def body(devices: int, **more: Any) -> Json:
        return {**request_body, **more, "recipe": {**quick, "train": {**quick["train"], "devices": devices}}}

    assert http.post("/v1/jobs?validate_only=true", json=body(4)).status_code == 200  # no worker: one may come
    cpu = {"kind": "cpu", "name": "Xeon", "memory_bytes": 2**40}
    worker(service, "wkr_cpu", devices=["Xeon"], device=cpu, train_devices=96)
    worker(service, "wkr_gpu", devices=[CARD["name"]], device={**CARD, "cards": 2}, train_devices=2)
    said = problem(http.post("/v1/jobs", json=body(4, device="cuda")), 422, "invalid_request", "recipe.train.devices")
    assert "no online worker for this job has more than 2" in said["cause"]
    problem(http.post("/v1/jobs", json=body(0)), 422, "invalid_recipe", "recipe.train.devices")
    for one in (body(2, device="cuda"), body(64)):
        made = http.post("/v1/jobs", json=one).json()
        assert (made["waits_for"], made["recipe"]["train"]["devices"]) == (None, one["recipe"]["train"]["devices"])
    sql(service, "DELETE FROM workers WHERE id = 'wkr_gpu'")
    waiting = http.post("/v1/jobs", json=body(2, device="cuda")).json()
    assert waiting["waits_for"] == "device"
    says(page_of(browser, f"/jobs/{waiting['id']}").text, "no online worker has 2 working GPUs")
    one, two = (http.post("/v1/jobs?validate_only=true", json=body(number)).json()["estimate"] for number in (1, 2))
    assert one["host_bytes_with_card"] < two["host_bytes_with_card"]
    for train, distill, param in (
        ({}, {"teachers": {"precision": "int8"}}, "distill.teachers.precision"),
        ({"optimizer": "adamw-8bit"}, {}, "train.optimizer"),
        ({"compile": "on"}, {}, "train.compile"),
    ):
        asked = body(2)
        asked["recipe"] = {**asked["recipe"], "distill": distill, "train": {**asked["recipe"]["train"], **train}}
        problem(http.post("/v1/jobs", json=asked), 422, "invalid_spec", f"recipe.{param}")


def test_a_search_that_no_worker_has_is_refused_and_one_that_some_lack_is_warned_of(
    service: Service, http: httpx.Client, request_body: Json
) -> None:
    body = {**request_body, "recipe": {"prune": {"search": "tpe", "target_params": 0.3}}}
    place = "/v1/jobs?validate_only=true"
    assert http.post(place, json=body).status_code == 200  # no worker: one may come
    cpu = {"kind": "cpu", "name": "Xeon", "memory_bytes": 2**40}
    worker(service, "wkr_plain", devices=["Xeon"], device=cpu, searches=["solver"])
    for each in (place, "/v1/jobs"):
        said = problem(http.post(each, json=body), 422, "invalid_request", "recipe.prune.search")
        assert "no online worker has the packages of the search tpe" in said["cause"]
    solver = {**body, "recipe": {"prune": {"search": "solver", "target_params": 0.3}}}
    assert http.post(place, json=solver).status_code == 200
    worker(service, "wkr_able", devices=["Xeon"], device=cpu, searches=["solver", "tpe"])
    told = http.post(place, json=body).json()["warnings"]
    assert any(one.startswith("search_absent: 1 of 2 online workers lack") for one in told)
    sql(service, "DELETE FROM workers WHERE id = 'wkr_plain'")
    assert not any(one.startswith("search_absent") for one in http.post(place, json=body).json()["warnings"])


def test_the_fleet_shows_each_worker_s_device(service: Service, http: httpx.Client, browser: httpx.Client) -> None:
    worker(service, "wkr_gpu", devices=[CARD["name"]], device=CARD)
    worker(service, "wkr_lost", devices=["NVIDIA L4"], device={**CARD, "name": "NVIDIA L4", "lost": "Xid 79"})
    text = page_of(browser, "/fleet").text
    says(text, "NVIDIA A100-SXM4-80GB", "96 cores", "80.0 GB; compute capability 8.0; driver 550.54.15", "bfloat16 312")
    says(text, "lost: Xid 79")
    lacks(text, "lost: None")
    items = {item["id"]: item["facts"]["device"] for item in http.get("/v1/workers").json()["items"]}
    assert items["wkr_gpu"] == CARD
