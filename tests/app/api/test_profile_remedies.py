"""What a profile suggests over HTTP and on the job's page, and a retry that makes its change."""

import json
from typing import Any

import httpx
import pytest

from tests.app.api.conftest import Json, add_artifact, problem, sql
from tests.app.api.finished import Page, done
from tests.app.api.test_devices import FACTS, FAILURE, ask, claim, device, registered, send
from tests.client.figures import report, score_of, validated
from tests.conftest import Service
from tests.support.profiles import measured
from tests.support.saying import says

__all__ = ["device", "registered"]  # fixtures
FORM = {**FACTS, "stage": "distilled", "precision": "float32"}
SLOW = [{"name": "/encoder/dense", "type": "MatMul", "ms": 1.5}, {"name": "/softmax", "type": "Softmax", "ms": 0.5}]


@pytest.fixture
def job(service: Service, http: httpx.Client, request_body: Json) -> str:
    """A job that quantized nothing."""
    presets = {item["name"]: item["recipe"] for item in http.get("/v1/recipes").json()["items"]}
    return done(service, http, {**request_body, "recipe": {**presets["quick"], "quantize": None}}, report())


def add(service: Service, job: str, name: str, **changes: Any) -> str:
    return add_artifact(service, job, "model.onnx", b"weights", {**FORM, "name": name, "kind": "onnx", **changes}, name)


def profiled(http: httpx.Client, device: httpx.Client, registered: Json, artifact: str, **outcome: Json) -> Json:
    """Request a profile, and answer it as the device."""
    made = ask(http, artifact, length=64)
    given = claim(device, registered)
    assert given is not None
    body: Json = {"profile": measured(made["request"], layers=SLOW), **outcome}
    answer = send(device, given, **body)
    assert answer.status_code == 200, answer.text
    found: Json = http.get(f"/v1/profiles/{made['id']}").json()
    return found


def test_a_retry_makes_the_change_that_a_profile_suggests(
    service: Service, http: httpx.Client, browser: httpx.Client, job: str, registered: Json, device: httpx.Client
) -> None:
    artifact = add(service, job, "distilled-onnx-float32")
    waiting = ask(http, artifact)
    assert waiting["remedies"] == []
    assert claim(device, registered)
    found = profiled(http, device, registered, artifact)
    (remedy,) = found["remedies"]
    assert remedy["code"] == "float_products"
    assert "75%" in remedy["cause"]
    assert "/encoder/dense" in remedy["cause"]
    assert (remedy["change"]["key"], remedy["artifact"], remedy["request"]) == ("recipe.quantize", None, None)
    assert http.get(f"/v1/profiles?job={job}").json()["items"][0]["remedies"] == [remedy]
    page = Page(browser.get(f"/jobs/{job}").text)
    says(page.text, "float_products", "/encoder/dense", "Quantize the model.", "Retry with this change")
    assert ("data-key", "recipe.quantize") in page.attributes
    body = {"profile": found["id"], "remedies": ["recipe.quantize"]}
    for asked in (body, {"profile": found["id"]}):
        answer = http.post(f"/v1/jobs/{job}/retry", json=asked)
        assert answer.status_code == 202, answer.text
        assert answer.json()["recipe"]["quantize"]["scheme"] == "dynamic-int8"
        assert answer.json()["retry_of"] == job
    problem(http.post(f"/v1/jobs/{job}/retry", json={**body, "remedies": ["recipe.prune"]}), 422, "invalid_request", "remedies")
    problem(http.post(f"/v1/jobs/{job}/retry", json={"profile": "prf_0"}), 404, "not_found")


def test_a_profile_of_another_job_changes_nothing(
    service: Service, http: httpx.Client, request_body: Json, job: str, registered: Json, device: httpx.Client
) -> None:
    found = profiled(http, device, registered, add(service, job, "distilled-onnx-float32"))
    other = done(service, http, request_body)
    problem(http.post(f"/v1/jobs/{other}/retry", json={"profile": found["id"]}), 422, "invalid_request", "profile")


def test_a_faster_form_on_the_same_device_is_named(
    service: Service, http: httpx.Client, browser: httpx.Client, job: str, registered: Json, device: httpx.Client
) -> None:
    slow, fast = add(service, job, "distilled-onnx-float32"), add(service, job, "distilled-onnx-int8", precision="int8")
    found = profiled(http, device, registered, slow)
    assert found["remedies"][0]["artifact"] == fast  # its integers
    quick = measured({"length": 64}, latency={"median_ms": 1.0, "p95_ms": 1.0, "samples_ms": [1.0]}, layers=[])
    profiled(http, device, registered, fast, profile={**quick, "request": found["request"]})
    first = http.get(f"/v1/profiles/{found['id']}").json()["remedies"][0]
    assert (first["code"], first["artifact"]) == ("faster_form", fast)
    assert f"#files-{fast}" in browser.get(f"/jobs/{job}").text
    problem(http.post(f"/v1/jobs/{job}/retry", json={"profile": found["id"]}), 409, "no_remedy")


@pytest.mark.parametrize(("score", "named"), [(0.795, True), (0.5, False)])
def test_a_faster_form_below_the_targets_of_the_score_is_not_named(
    service: Service, http: httpx.Client, request_body: Json, registered: Json, device: httpx.Client, score: float, named: bool
) -> None:
    job = done(service, http, request_body, validated())  # its baseline has 0.8 on validation
    slow = add(service, job, "distilled-onnx-float32")
    scored = {"precision": "int8", "validation": score_of(score).model_dump(mode="json")}
    fast = add(service, job, "distilled-onnx-int8", **scored)
    found = profiled(http, device, registered, slow)
    quick = measured({"length": 64}, latency={"median_ms": 1.0, "p95_ms": 1.0, "samples_ms": [1.0]}, layers=[])
    profiled(http, device, registered, fast, profile={**quick, "request": found["request"]})
    codes = [one["code"] for one in http.get(f"/v1/profiles/{found['id']}").json()["remedies"]]
    assert ("faster_form" in codes) is named


def test_a_failure_says_what_to_ask_for_instead(
    service: Service, http: httpx.Client, browser: httpx.Client, job: str, registered: Json, device: httpx.Client
) -> None:
    fitting = {"batch": 1, "length": 32, "resolution": None, "seconds": 10.0, "threads": 1}
    failure = {**FAILURE, "code": "unsupported", "subject": "input_ids", "request": fitting}
    artifact = add(service, job, "distilled-onnx-float32")
    made = ask(http, artifact, length=64)
    given = claim(device, registered)
    assert given is not None
    assert send(device, given, failure=failure).json()["error"] == failure
    (remedy,) = http.get(f"/v1/profiles/{made['id']}").json()["remedies"]
    assert (remedy["code"], remedy["request"]) == ("unsupported", fitting)
    assert remedy["cause"].startswith("input_ids: ")
    assert "--device pi --batch 1 --length 32" in browser.get(f"/jobs/{job}").text


@pytest.mark.parametrize(("resolved", "offered"), [(None, "dynamic-int8"), ({"scheme": "static-int8"}, None)])
def test_remedies_are_of_the_scheme_that_the_device_table_decided(
    service: Service,
    http: httpx.Client,
    request_body: Json,
    registered: Json,
    device: httpx.Client,
    resolved: Json | None,
    offered: str | None,
) -> None:
    job = done(service, http, {**request_body, "recipe": {"quantize": {"scheme": "auto"}}}, report())
    sql(service, "UPDATE jobs SET resolved = %s WHERE id = %s", resolved and json.dumps(resolved), job)
    artifact = add(service, job, "distilled-onnx-int8", precision="int8")
    layers = [{"name": "/dense", "type": "MatMulInteger", "ms": 1.5}, {"name": "/q", "type": "QuantizeLinear", "ms": 0.5}]
    made = ask(http, artifact, length=64)
    given = claim(device, registered)
    assert given is not None
    assert send(device, given, profile=measured(made["request"], layers=layers)).status_code == 200
    remedies = http.get(f"/v1/profiles/{made['id']}").json()["remedies"]
    assert [remedy["change"]["now"] for remedy in remedies if remedy["code"] == "rounding"] == ([offered] if offered else [])
