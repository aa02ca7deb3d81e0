"""Devices and profiles over HTTP: who is given what, which results are taken, and that each is taken once."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.app.api.conftest import Json, add_artifact, new_team, problem, sql
from tests.app.api.finished import HOSTILE, Page, done
from tests.app.api.test_quotas import limit, refused
from tests.conftest import Service, wait_for
from tests.support.profiles import measured
from tests.support.saying import says

FACTS = dict.fromkeys(("name", "kind", "stage", "precision", "opens_with"), "x") | {"score": {}}
FAILURE = {"code": "out_of_memory", "detail": "the process was killed", "remedy": "Ask for a smaller batch."}


@pytest.fixture
def artifact(service: Service, http: httpx.Client, request_body: Json) -> str:
    return add_artifact(service, done(service, http, request_body), "model.onnx", b"weights", FACTS)


@pytest.fixture
def registered(http: httpx.Client) -> Json:
    answer = http.post("/v1/devices", json={"name": "pi"})
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture
def device(service: Service, registered: Json) -> Iterator[httpx.Client]:
    """The device's own client."""
    with service.client(registered["key"]) as client:
        yield client


def ask(http: httpx.Client, artifact: str, **request: Any) -> Json:
    answer = http.post(f"/v1/artifacts/{artifact}/profiles", json={"device": "pi", **request})
    assert answer.status_code == 202, answer.text
    return answer.json()


def claim(device: httpx.Client, registered: Json, wait: int = 0) -> Json | None:
    answer = device.post(f"/v1/devices/{registered['id']}/claim", headers={"Prefer": f"wait={wait}"} if wait else {})
    assert answer.status_code in (200, 204), answer.text
    return answer.json() if answer.status_code == 200 else None


def send(device: httpx.Client, given: Json, verb: str = "result", **body: Any) -> httpx.Response:
    return device.post(f"/v1/profiles/{given['profile']}/{verb}", json={"fence": given["fence"], **body})


def test_a_profile_goes_from_request_to_result(
    service: Service, http: httpx.Client, artifact: str, registered: Json, device: httpx.Client
) -> None:
    made = ask(http, artifact, batch=4, length=64, seconds=2)
    assert (made["state"], made["device_name"], made["request"]["batch"]) == ("queued", "pi", 4)
    problem(device.get(f"/v1/artifacts/{artifact}"), 404, "not_found")
    given = claim(device, registered)
    assert given is not None
    assert (given["profile"], given["artifact"]["id"], given["request"]) == (made["id"], artifact, made["request"])
    assert device.get(f"/v1/artifacts/{artifact}/files/model.onnx").content == b"weights"
    assert [one["id"] for one in device.get(f"/v1/jobs/{made['job']}/artifacts").json()["items"]] == [artifact]
    assert claim(device, registered) is None
    assert send(device, given, "heartbeat").status_code == 204
    problem(send(device, {**given, "fence": 7}, "heartbeat"), 409, "lease_lost")
    profile = measured(made["request"])
    first = send(device, given, profile=profile)
    assert first.status_code == 200, first.text
    assert send(device, given, profile=measured(made["request"], rows_per_second=1.0)).json() == first.json()
    problem(send(device, {**given, "fence": 2}, failure=FAILURE), 409, "lease_lost")
    problem(send(device, given, "heartbeat"), 409, "lease_lost")
    problem(device.get(f"/v1/artifacts/{artifact}/files/model.onnx"), 404, "not_found")
    found = http.get(f"/v1/profiles/{made['id']}").json()
    assert (found["state"], found["result"], found["error"]) == ("done", profile, None)
    assert (found["figures"]["median_ms"], found["figures"]["rows_per_second"]) == (2.0, 500.0)
    known = http.get("/v1/devices").json()["items"][0]
    assert (known["facts"], known["mine"], known["waiting"]) == (profile["device"], False, 0)
    assert known["last_heard"]
    assert device.get("/v1/devices").json()["items"][0]["mine"]
    actions = [(one["action"], one["object"]) for one in http.get("/v1/audit").json()["items"] if one["outcome"] == "ok"]
    pairs = ("profiles.result", made["id"]), ("devices.claim", registered["id"]), ("profiles.create", made["id"])
    assert actions[:3] == list(pairs)


def test_lists_are_paged_and_without_raw_samples(http: httpx.Client, artifact: str, registered: Json) -> None:
    made = [ask(http, artifact)["id"] for _ in range(3)]
    job = http.get(f"/v1/artifacts/{artifact}").json()["job"]
    places = (f"/v1/artifacts/{artifact}/profiles", "/v1/profiles", f"/v1/profiles?job={job}&device={registered['id']}")
    for place in places:
        first = http.get(place, params={**httpx.QueryParams(place.partition("?")[2]), "page_size": 2})
        assert [one["id"] for one in first.json()["items"]] == made[:0:-1]
        assert "result" not in first.json()["items"][0]
        assert 'rel="next"' in first.headers["link"]
    assert http.get("/v1/profiles?job=job_0").json()["items"] == []
    assert http.get("/v1/devices").json()["items"][0]["waiting"] == 3


def test_a_request_is_the_same_with_its_key_and_goes_with_its_job(http: httpx.Client, artifact: str, registered: Json) -> None:
    place, key = f"/v1/artifacts/{artifact}/profiles", {"Idempotency-Key": artifact}
    first = http.post(place, json={"device": registered["id"]}, headers=key)
    again = http.post(place, json={"device": registered["id"]}, headers=key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert http.delete(f"/v1/jobs/{first.json()['job']}").status_code == 204
    problem(http.get(f"/v1/profiles/{first.json()['id']}"), 404, "not_found")
    problem(http.post(place, json={"device": registered["id"]}, headers=key), 410, "deleted")


WRONG: dict[str, Json] = {
    "device": {"device": "nothing"},
    "batch": {"batch": 0},
    "length": {"length": 513},
    "resolution": {"resolution": 224},
    "seconds": {"seconds": 601},
}


@pytest.mark.parametrize("param", WRONG)
def test_a_wrong_request_is_refused_by_its_field(http: httpx.Client, artifact: str, registered: Json, param: str) -> None:
    answer = http.post(f"/v1/artifacts/{artifact}/profiles", json={"device": "pi", **WRONG[param]})
    problem(answer, 422, "invalid_request", param)
    assert http.get("/v1/profiles").json()["items"] == []


def test_no_device_is_called_worker_and_no_job_waits_for_none(http: httpx.Client, request_body: Json) -> None:
    problem(http.post("/v1/devices", json={"name": "worker"}), 422, "invalid_request", "name")
    assert http.get("/v1/devices").json()["items"] == []
    for seconds, status in ((60, 422), (900, 200)):  # the second is the default
        answer = http.post("/v1/jobs?validate_only=true", json={**request_body, "evaluate": {"device_seconds": seconds}})
        assert answer.status_code == status, answer.text
        if status == 422:
            problem(answer, 422, "invalid_request", "evaluate.device_seconds")


LATENCY = {"median_ms": 2.0, "p95_ms": 2.5, "samples_ms": [2.0]}
REFUSED = {
    "profile.latency.median_ms": {"latency": {**LATENCY, "median_ms": -1.0}},
    "profile.latency.p95_ms": {"latency": {**LATENCY, "p95_ms": float("nan")}},
    "profile.latency.samples_ms.0": {"latency": {**LATENCY, "samples_ms": [float("inf")]}},
    "profile.rows_per_second": {"rows_per_second": 0},
    "profile.request.batch": {"request": {"batch": 2}},
    "profile.speed": {"speed": 1},
}


@pytest.mark.parametrize("param", REFUSED)
def test_figures_that_cannot_be_are_refused(
    http: httpx.Client, artifact: str, registered: Json, device: httpx.Client, param: str
) -> None:
    made = ask(http, artifact)
    given = claim(device, registered)
    assert given is not None
    body = json.dumps({"fence": given["fence"], "profile": {**measured(made["request"]), **REFUSED[param]}})
    place, kind = f"/v1/profiles/{made['id']}/result", {"Content-Type": "application/json"}
    problem(device.post(place, content=body, headers=kind), 422, "invalid_request", param)
    assert http.get(f"/v1/profiles/{made['id']}").json()["state"] == "running"


def test_a_device_says_of_its_own_tasks_alone(
    service: Service, http: httpx.Client, artifact: str, registered: Json, device: httpx.Client
) -> None:
    other = http.post("/v1/devices", json={"name": "other"}).json()
    problem(http.post("/v1/devices", json={"name": "pi"}), 409, "name_taken", "name")
    made = ask(http, artifact)
    given = claim(device, registered)
    assert given is not None
    with service.client(new_team(service)) as admin:
        foreign = admin.post("/v1/devices", json={"name": "pi"}).json()
    for key in (other["key"], foreign["key"]):
        with service.client(key) as machine:
            problem(machine.post(f"/v1/devices/{registered['id']}/claim"), 404, "not_found")
            for verb in ("heartbeat", "release", "result"):
                problem(send(machine, given, verb, **({"failure": FAILURE} if verb == "result" else {})), 404, "not_found")
            problem(machine.get(f"/v1/artifacts/{artifact}/files/model.onnx"), 404, "not_found")
    problem(send(http, given, failure=FAILURE), 403, "insufficient_scope")
    both = measured(made["request"])
    problem(send(device, given, failure=FAILURE, profile=both), 422, "invalid_request")
    assert send(device, given, failure=FAILURE).json()["error"] == FAILURE
    assert http.get(f"/v1/profiles/{made['id']}").json()["state"] == "failed"


def test_one_claim_of_many_at_once_gets_the_task(
    http: httpx.Client, artifact: str, registered: Json, device: httpx.Client
) -> None:
    ask(http, artifact)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: claim(device, registered), range(4)))
    assert len([one for one in found if one]) == 1


def test_a_waiting_device_is_given_what_comes(
    http: httpx.Client, artifact: str, registered: Json, device: httpx.Client
) -> None:
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(claim, device, registered, 60)
        wait_for(lambda: http.get("/v1/devices").json()["items"][0]["last_heard"])
        made = ask(http, artifact)
        given = held.result(60)
    assert given is not None
    assert given["profile"] == made["id"]
    waits = {"Prefer": "wait=60"}
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(http.get, f"/v1/profiles/{made['id']}", headers=waits)
        send(device, given, failure=FAILURE)
        assert held.result(60).json()["state"] == "failed"


def test_nothing_is_claimed_for_a_device_that_has_hung_up(
    service: Service, http: httpx.Client, artifact: str, registered: Json, device: httpx.Client
) -> None:
    address = httpx.URL(service.url)
    with socket.create_connection((address.host, address.port)) as line:
        head = f"POST /v1/devices/{registered['id']}/claim HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 0\r\n"
        line.sendall(f"{head}Authorization: Bearer {registered['key']}\r\nPrefer: wait=60\r\n\r\n".encode())
        wait_for(lambda: http.get("/v1/devices").json()["items"][0]["last_heard"])
    made = ask(http, artifact)
    time.sleep(3)  # the one who hung up would have claimed it by now: waiting claims look each second
    assert http.get(f"/v1/profiles/{made['id']}").json()["state"] == "queued"
    given = claim(device, registered)
    assert given is not None
    assert given["profile"] == made["id"]


def test_what_is_handed_back_waits_again_and_a_removed_device_fails_it(
    service: Service, http: httpx.Client, artifact: str, registered: Json, device: httpx.Client
) -> None:
    made = ask(http, artifact)
    for fence in (1, 3, 5):  # more than the attempts of a silent device
        given = claim(device, registered)
        assert given is not None
        assert given["fence"] == fence
        assert send(device, given, "release").status_code == 204
    problem(send(device, given, "release"), 409, "lease_lost")
    rotated = http.post(f"/v1/keys/{registered['key'].split('_')[1]}/rotate", json={}).json()
    for key in (registered["key"], rotated["key"]):
        with service.client(key) as machine:
            assert machine.get("/v1/devices").json()["items"][0]["mine"]
    assert http.delete(f"/v1/devices/{registered['id']}").status_code == 204
    found = http.get(f"/v1/profiles/{made['id']}").json()
    assert (found["state"], found["error"]["code"], found["device_name"]) == ("failed", "device_lost", "pi")
    for key in (registered["key"], rotated["key"]):
        with service.client(key) as machine:
            problem(machine.get("/v1/devices"), 401, "unauthorized")
    assert http.get("/v1/devices").json()["items"] == []
    assert http.post("/v1/devices", json={"name": "pi"}).status_code == 201


def test_a_profile_that_waits_is_deleted_and_one_that_is_measured_is_not(
    http: httpx.Client, artifact: str, registered: Json, device: httpx.Client
) -> None:
    first, other = ask(http, artifact), ask(http, artifact)
    assert http.delete(f"/v1/profiles/{first['id']}").status_code == 204
    problem(http.delete(f"/v1/profiles/{first['id']}"), 404, "not_found")
    given = claim(device, registered)
    assert given is not None
    assert given["profile"] == other["id"]
    problem(http.delete(f"/v1/profiles/{other['id']}"), 409, "wrong_state")
    assert send(device, given, failure=FAILURE).status_code == 200
    assert http.delete(f"/v1/profiles/{other['id']}").status_code == 204
    assert http.get("/v1/profiles").json()["items"] == []


def test_waiting_profiles_are_bounded(service: Service, http: httpx.Client, artifact: str, registered: Json) -> None:
    limit(service, profiles_waiting=1)
    ask(http, artifact)
    answer = http.post(f"/v1/artifacts/{artifact}/profiles", json={"device": "pi"})
    refused(answer, 403, "quota_exceeded", "profiles_waiting", 1, 1)


def test_a_profile_with_many_layers_is_taken(http: httpx.Client, artifact: str, registered: Json, device: httpx.Client) -> None:
    made = ask(http, artifact)
    given = claim(device, registered)
    assert given is not None
    layers = [{"name": f"/encoder/{number:0100}", "type": "MatMul", "ms": 0.1} for number in range(10_000)]
    assert send(device, given, profile=measured(made["request"], layers=layers)).status_code == 200
    assert len(http.get(f"/v1/profiles/{made['id']}").json()["result"]["layers"]) == 10_000


def test_a_key_that_is_no_device_s_lists_and_claims_none(service: Service, http: httpx.Client, registered: Json) -> None:
    loose = http.post("/v1/keys", json={"name": "loose", "scope": "device"}).json()["key"]
    with service.client(loose) as machine:
        assert machine.get("/v1/devices").json()["items"] == []
        problem(machine.post(f"/v1/devices/{registered['id']}/claim"), 404, "not_found")
    sql(service, "UPDATE api_keys SET revoked_at = created_at WHERE id = %s", registered["key"].split("_")[1])
    with service.client(registered["key"]) as machine:
        problem(machine.post(f"/v1/devices/{registered['id']}/claim"), 401, "unauthorized")


def test_the_job_s_page_has_its_profiles(
    http: httpx.Client, artifact: str, registered: Json, device: httpx.Client, browser: httpx.Client
) -> None:
    asked = [ask(http, artifact, batch=batch, length=64) for batch in (1, 2, 3)]
    for number, request in enumerate(asked[:2]):
        given = claim(device, registered)
        assert given is not None
        good = measured(request["request"], decoding={**LATENCY, "median_ms": 3.0})
        outcome = {"failure": {**FAILURE, "detail": HOSTILE}} if number else {"profile": good}
        assert send(device, given, **outcome).status_code == 200
    page = Page(browser.get(f"/jobs/{asked[0]['job']}").text)
    says(page.text, "On devices", "1 × 64 tokens, 1 thread", "2 ms", "a token 3 ms", "500", "120 MB", "there is no sensor")
    says(page.text, "out_of_memory", HOSTILE, "Ask for a batch of 1, or take", "waits for the device")
