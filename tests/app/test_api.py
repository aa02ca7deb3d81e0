"""The API as its callers meet it: a real uvicorn process over both databases."""

import asyncio
import base64
import contextlib
import hashlib
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from app import ranges
from app.ids import ALPHABET, new_id
from tests.conftest import DATABASES, ROOT, Database, Service, fresh_database, wait_for

MODEL_FACTS = {
    "kind": "model",
    "family": "bert",
    "architecture": "BertModel",
    "shape": {"layers": 6, "hidden": 384, "heads": 12, "ffn": 1536, "vocabulary": 30522},
    "max_positions": 512,
    "parameters": {"total": 22713216, "embedding": 11917824, "other": 10795392},
    "labels": None,
    "dtype": "float32",
    "bytes": 90868376,
}
DATA_FACTS = {
    "kind": "dataset",
    "labels": ["negative", "positive"],
    "rows": {"train": 100, "validation": 20, "test": 20},
    "label_counts": {"train": {"negative": 50, "positive": 50}},
    "mean_words": 12.0,
    "longest_words": 40,
}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(path: str, data: bytes) -> dict[str, Any]:
    return {"path": path, "size": len(data), "sha256": sha(data)}


def sql(service: Service, statement: str, *values: object) -> None:
    """Change the database behind the API's back, as a worker in another process would."""
    if service.database.kind == "sqlite":
        with sqlite3.connect(service.database.url.removeprefix("sqlite:///"), timeout=30) as lite:
            lite.execute(statement.replace("%s", "?"), values)
        lite.close()
    else:
        with psycopg.connect(service.database.url) as connection:
            connection.execute(statement.encode(), values)


@pytest.fixture(scope="module", params=DATABASES)
def shared(
    request: pytest.FixtureRequest,
    postgres: str,
    templates: dict[str, str],
    valkey: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """One API for this module over each database; each test has a team of its own in it."""
    folder = tmp_path_factory.mktemp("shared")
    with fresh_database(request.param, postgres, templates, folder) as database:
        made = Service(folder / "home", database, valkey)
        made.start_api()
        yield made
        made.stop()


@pytest.fixture
def service(shared: Service) -> Service:
    """The shared API as a new team sees it."""
    return replace(shared, database=replace(shared.database, key=new_team(shared)))


def new_team(service: Service) -> str:
    """Make a team behind the API's back; return its key."""
    team, key_id, secret = new_id("team"), "".join(random.choices(ALPHABET, k=10)), "s" * 43
    moment = "2026-01-01 00:00:00.000000"
    sql(service, "INSERT INTO teams (id, name, created_at) VALUES (%s, %s, %s)", team, team, moment)
    sql(
        service,
        "INSERT INTO api_keys (id, team_id, name, secret_sha256, created_at) VALUES (%s, %s, 'first', %s, %s)",
        key_id,
        team,
        sha(secret.encode()),
        moment,
    )
    return f"lathe_{key_id}_{secret}"


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def ready_model(service: Service, http: httpx.Client) -> str:
    """A model that is ready as if a worker had checked it (workers have tests of their own)."""
    made = http.post("/v1/models", json={"name": "m", "files": [entry("config.json", b"{}")]}).json()["id"]
    sql(service, "UPDATE models SET state = 'ready', facts = %s WHERE id = %s", json.dumps(MODEL_FACTS), made)
    return str(made)


def ready_dataset(service: Service, http: httpx.Client) -> str:
    body = {"name": "d", "format": "jsonl", "splits": {"train": ["t.jsonl"]}, "files": [entry("t.jsonl", b"x")]}
    made = http.post("/v1/datasets", json=body).json()["id"]
    sql(service, "UPDATE datasets SET state = 'ready', facts = %s WHERE id = %s", json.dumps(DATA_FACTS), made)
    return str(made)


@pytest.fixture
def request_body(service: Service, http: httpx.Client) -> dict[str, Any]:
    return {"models": {"base": ready_model(service, http)}, "datasets": [ready_dataset(service, http)], "recipe": "quick"}


def problem(answer: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert body["cause"]
    assert body["remedy"]
    assert body["request_id"] == answer.headers["x-request-id"]
    if param:
        assert body["param"] == param
    return body


def test_nobody_gets_in_without_a_key(service: Service) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Bearer {service.database.key[:-1]}x"}):
        answer = httpx.get(f"{service.url}/v1/jobs", headers=headers)
        problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_keys_are_shown_once_and_can_be_revoked(service: Service, http: httpx.Client) -> None:
    made = http.post("/v1/keys", json={"name": "ci"}).json()
    with service.client(made["key"]) as other:
        assert {key["name"] for key in other.get("/v1/keys").json()["items"]} == {"first", "ci"}
        assert all(key["key"] is None for key in other.get("/v1/keys").json()["items"])
        assert http.delete(f"/v1/keys/{made['id']}").status_code == 204
        problem(other.get("/v1/keys"), 401, "unauthorized")


def test_an_upload_is_hashed_and_sealed(http: httpx.Client) -> None:
    data = b"weights" * 100_000
    made = http.post("/v1/models", json={"name": "m", "files": [entry("a/model.safetensors", data), entry("c", b"")]}).json()
    place = f"/v1/models/{made['id']}"
    assert made["state"] == "uploading"
    problem(http.put(f"{place}/files/a/model.safetensors", content=data[:-1] + b"!"), 422, "checksum_mismatch", "sha256")
    problem(http.put(f"{place}/files/a/model.safetensors", content=data + b"!"), 422, "size_mismatch", "size")
    problem(http.put(f"{place}/files/other", content=b""), 404, "not_found", "path")
    problem(http.post(f"{place}/complete"), 409, "incomplete_upload", "files")
    for _ in range(2):  # sending a file again is harmless
        assert http.put(f"{place}/files/a/model.safetensors", content=data).json()["sha256"] == sha(data)
    assert http.put(f"{place}/files/c", content=b"").status_code == 200
    done = http.post(f"{place}/complete")
    assert (done.status_code, done.json()["state"]) == (202, "validating")
    problem(http.put(f"{place}/files/c", content=b""), 409, "already_complete")


def test_a_chunked_upload_that_is_too_long_is_cut_off(http: httpx.Client, service: Service) -> None:
    made = http.post("/v1/models", json={"name": "m", "files": [entry("w", b"12345")]}).json()["id"]

    def endless() -> Iterator[bytes]:
        for _ in range(3):
            yield b"xxx"

    problem(http.put(f"/v1/models/{made}/files/w", content=endless()), 422, "size_mismatch")
    assert list((service.home / "storage").rglob(f"*{made}*/*")) == []
    assert list((service.home / "storage" / ".incoming").iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/./b", ".hidden", "a\\b", "a\nb", "x" * 201, ""])
def test_hostile_paths_are_refused_by_name(path: str, http: httpx.Client) -> None:
    answer = http.post("/v1/models", json={"name": "m", "files": [{"path": path, "size": 1, "sha256": "0" * 64}]})
    problem(answer, 422, "invalid_request", "files.0.path")


def test_a_manifest_must_agree_with_itself(http: httpx.Client) -> None:
    twice = {"name": "m", "files": [entry("a", b""), entry("a", b"")]}
    problem(http.post("/v1/models", json=twice), 422, "invalid_request", "files")
    body = {"name": "d", "format": "jsonl", "splits": {"train": ["t"], "test": ["missing"]}, "files": [entry("t", b"")]}
    problem(http.post("/v1/datasets", json=body), 422, "invalid_request", "splits")
    problem(http.post("/v1/datasets", json={**body, "splits": {"dev": ["t"]}}), 422, "invalid_request")


def test_a_job_is_accepted_once_a_key(http: httpx.Client, request_body: dict[str, Any]) -> None:
    key = {"Idempotency-Key": new_id("k")}
    first = http.post("/v1/jobs", json=request_body, headers=key)
    again = http.post("/v1/jobs", json=request_body, headers=key)
    assert (first.status_code, first.json()["state"]) == (202, "queued")
    assert first.json()["queue_position"] >= 1
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    problem(
        http.post("/v1/jobs", json={**request_body, "name": "x"}, headers=key), 422, "idempotency_key_reused", "Idempotency-Key"
    )
    assert len(http.get("/v1/jobs").json()["items"]) == 1


def test_a_failed_request_does_not_burn_its_key(http: httpx.Client, request_body: dict[str, Any]) -> None:
    key = {"Idempotency-Key": new_id("k")}
    problem(http.post("/v1/jobs", json={**request_body, "recipe": "nope"}, headers=key), 422, "invalid_recipe", "recipe")
    assert http.post("/v1/jobs", json=request_body, headers=key).status_code == 202


def test_preflight_stores_nothing(http: httpx.Client, request_body: dict[str, Any]) -> None:
    answer = http.post("/v1/jobs?validate_only=true", json=request_body)
    assert answer.status_code == 200
    assert answer.json()["shape"]["hidden"] == 256
    assert answer.json()["estimate"]["minutes"] > 0
    assert http.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"recipe": {"prune": {"ratoi": 0.3}}}, "invalid_recipe", "recipe.prune.ratoi"),
        ({"recipe": {"prune": {"ratio": 1.5}}}, "invalid_recipe", "recipe.prune.ratio"),
        ({"recipe": {"prune": {"ratio": 0.99}}}, "unsupported_shape", "recipe.prune.ratio"),
        ({"recipe": {"prune": {"ratio": {"layers": 1.5}}}}, "invalid_recipe", "recipe.prune.ratio.layers"),
        ({"recipe": {"prune": {"axes": ["ffn"], "target_params": 0.9}}}, "unsupported_shape", "recipe.prune.target_params"),
        ({"recipe": {"train": {"max_length": 4096}}}, "invalid_spec", "recipe.train.max_length"),
        ({"recipe": "slow"}, "invalid_recipe", "recipe"),
        ({"models": {"base": "mdl_none"}}, "not_found", "models.base"),
        ({"task": "image-classification"}, "invalid_request", "task"),
        ({"task": "text-regression"}, "invalid_request", "task"),
        ({"priority": 99}, "invalid_request", "priority"),
        ({"surprise": 1}, "invalid_request", "surprise"),
        ({"evaluate": {"length": 100_000}}, "invalid_request", "evaluate.length"),
    ],
)
def test_bad_jobs_name_the_field(
    change: dict[str, Any], code: str, param: str, http: httpx.Client, request_body: dict[str, Any]
) -> None:
    answer = http.post("/v1/jobs", json={**request_body, **change})
    problem(answer, 404 if code == "not_found" else 422, code, param)
    assert http.get("/v1/jobs").json()["items"] == []


NUMBERS = {
    **DATA_FACTS,
    "task": "text-regression",
    "labels": [],
    "label_counts": {"train": {}},
    "values": {"train": {"least": 0, "most": 5, "mean": 2}},
}


def test_a_job_names_several_datasets(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    one, other = request_body["datasets"][0], ready_dataset(service, http)
    sql(service, "UPDATE datasets SET facts = %s, task = 'text-regression' WHERE id = %s", json.dumps(NUMBERS), other)
    body = {**request_body, "datasets": [one, other]}
    single = [
        http.post("/v1/jobs?validate_only=true", json={**body, "datasets": [data]}).json()["estimate"] for data in (one, other)
    ]
    both = http.post("/v1/jobs?validate_only=true", json=body).json()["estimate"]
    assert both["minutes"] == pytest.approx(sum(estimate["minutes"] for estimate in single), abs=0.11)
    assert both["disk_bytes"] == sum(estimate["disk_bytes"] for estimate in single)
    assert both["memory_bytes"] == max(estimate["memory_bytes"] for estimate in single)
    made = http.post("/v1/jobs", json=body).json()
    shown = http.get(f"/v1/jobs/{made['id']}").json()
    assert (shown["task"], shown["datasets"], shown["parts"]) == ("several", [one, other], ["d", "d-2"])
    assert made["id"] in problem(http.delete(f"/v1/datasets/{other}"), 409, "in_use")["cause"]
    http.post(f"/v1/jobs/{made['id']}/cancel")
    again = http.post(f"/v1/jobs/{made['id']}/retry").json()
    assert (again["datasets"], again["parts"], again["retry_of"]) == ([one, other], ["d", "d-2"], made["id"])
    http.post(f"/v1/jobs/{again['id']}/cancel")
    assert http.delete(f"/v1/datasets/{other}").status_code == 204
    problem(http.post(f"/v1/jobs/{made['id']}/retry"), 404, "not_found")


def test_of_several_datasets_the_wrong_one_is_named(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    one, other = request_body["datasets"][0], ready_dataset(service, http)
    several = {**request_body, "datasets": [one, other]}
    problem(http.post("/v1/jobs", json={**several, "datasets": [one, "dat_none"]}), 404, "not_found", "datasets.1")
    problem(http.post("/v1/jobs", json={**several, "datasets": [one, one]}), 422, "invalid_request", "datasets.1")
    problem(http.post("/v1/jobs", json={**several, "datasets": [one] * 17}), 422, "invalid_request", "datasets")
    problem(http.post("/v1/jobs", json={**several, "task": "text-classification"}), 422, "invalid_request", "task")
    sql(service, "UPDATE datasets SET facts = %s WHERE id = %s", json.dumps({**DATA_FACTS, "labels": ["x", "y"]}), other)
    headed = {**MODEL_FACTS, "architecture": "BertForSequenceClassification", "labels": ["negative", "positive"]}
    sql(service, "UPDATE models SET facts = %s WHERE id = %s", json.dumps(headed), request_body["models"]["base"])
    said = problem(http.post("/v1/jobs", json=several), 422, "label_mismatch", "datasets.1")
    assert said["cause"].startswith("datasets.1 (d-2): the model's head has the labels")
    sql(service, "UPDATE datasets SET state = 'validating' WHERE id = %s", other)
    problem(http.post("/v1/jobs", json=several), 409, "not_ready", "datasets.1")
    assert http.get("/v1/jobs").json()["items"] == []


def test_a_job_names_a_student_and_teachers(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    base, student, one, other = request_body["models"]["base"], *(ready_model(service, http) for _ in range(3))
    tuned = json.dumps({**MODEL_FACTS, "architecture": "BertForSequenceClassification", "labels": ["positive", "negative"]})
    for teacher in (one, other):
        sql(service, "UPDATE models SET facts = %s WHERE id = %s", tuned, teacher)
    models = {"base": base, "student": student, "teachers": [one, other]}
    body = {**request_body, "models": models, "recipe": {"prune": None}}
    problem(http.post("/v1/jobs", json={**body, "recipe": "quick"}), 422, "invalid_spec", "recipe.prune")
    untaught = {**body, "recipe": {"prune": None, "distill": None}}
    problem(http.post("/v1/jobs", json=untaught), 422, "invalid_spec", "models.student")
    for named, code, param in (
        ({"teachers": [one, one]}, "invalid_request", "models.teachers.1"),
        ({"teachers": [one, student]}, "label_mismatch", "models.teachers.1"),
        ({"teachers": [one] * 9}, "invalid_request", "models.teachers"),
        ({"student": "mdl_none"}, "not_found", "models.student"),
    ):
        answer = http.post("/v1/jobs", json={**body, "models": {**models, **named}})
        problem(answer, 404 if code == "not_found" else 422, code, param)
    assert http.get("/v1/jobs").json()["items"] == []
    made = http.post("/v1/jobs", json=body).json()
    assert http.get(f"/v1/jobs/{made['id']}").json()["models"] == models
    for model in (student, other):
        assert made["id"] in problem(http.delete(f"/v1/models/{model}"), 409, "in_use")["cause"]
        assert [job["id"] for job in http.get(f"/v1/jobs?model={model}").json()["items"]] == [made["id"]]
    http.post(f"/v1/jobs/{made['id']}/cancel")
    again = http.post(f"/v1/jobs/{made['id']}/retry").json()
    assert (again["models"], again["retry_of"]) == (models, made["id"])
    http.post(f"/v1/jobs/{again['id']}/cancel")
    assert http.delete(f"/v1/models/{other}").status_code == 204
    problem(http.post(f"/v1/jobs/{made['id']}/retry"), 404, "not_found")


def test_a_model_that_is_not_ready_is_refused(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    reasons = json.dumps([{"code": "unsafe_checkpoint", "cause": "it is a pickle"}])
    sql(service, "UPDATE models SET state = 'rejected', reasons = %s WHERE id = %s", reasons, request_body["models"]["base"])
    assert "it is a pickle" in problem(http.post("/v1/jobs", json=request_body), 409, "not_ready", "models.base")["cause"]


def test_pages_are_stable_and_filters_hold(http: httpx.Client, request_body: dict[str, Any]) -> None:
    ids = [http.post("/v1/jobs", json={**request_body, "labels": {"n": str(n % 2)}}).json()["id"] for n in range(5)]
    seen: list[str] = []
    url: str | None = "/v1/jobs?page_size=2"
    while url:
        answer = http.get(url)
        seen += [job["id"] for job in answer.json()["items"]]
        link = answer.links.get("next")
        url = link["url"] if link else None
        if len(seen) == 2:
            http.post("/v1/jobs", json=request_body)  # a newcomer does not shift the pages that follow
    assert seen == ids[::-1]
    assert [job["id"] for job in http.get("/v1/jobs?label=n:1").json()["items"]] == [ids[3], ids[1]]
    http.post(f"/v1/jobs/{ids[0]}/cancel")
    assert [job["id"] for job in http.get("/v1/jobs?state=cancelled").json()["items"]] == [ids[0]]
    problem(http.get("/v1/jobs?page_token=%21%21"), 422, "invalid_request", "page_token")


def test_a_wait_ends_with_the_change(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    job = http.post("/v1/jobs", json=request_body).json()
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import time,httpx; time.sleep(1); httpx.post('{service.url}/v1/jobs/{job['id']}/cancel',"
            f" headers={{'Authorization': 'Bearer {service.database.key}'}})",
        ],
    ):
        answer = http.get(f"/v1/jobs/{job['id']}", params={"version": job["version"]}, headers={"Prefer": "wait=60"})
    assert answer.json()["state"] == "cancelled"


def test_who_waits_holds_no_thread_and_no_session(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    job = http.post("/v1/jobs", json=request_body).json()
    place, many = f"/v1/jobs/{job['id']}", 60  # more than there are threads or sessions

    async def scene() -> None:
        async with AsyncExitStack() as stack:
            client = httpx.AsyncClient(base_url=service.url, headers=http.headers, timeout=90, limits=httpx.Limits())
            await stack.enter_async_context(client)
            told = []
            for _ in range(many):
                opened = client.stream("GET", f"{place}/events", headers={"Accept": "text/event-stream"})
                lines = (await stack.enter_async_context(opened)).aiter_lines()
                assert await anext(lines) == "retry: 2000"
                told.append(lines)
            waits = [
                asyncio.create_task(client.get(place, params={"version": job["version"]}, headers={"Prefer": "wait=60"}))
                for _ in range(many)
            ]
            await asyncio.sleep(1)
            assert (await client.get(place, timeout=30)).json()["state"] == "queued"
            assert not [wait for wait in waits if wait.done()]
            await client.post(f"{place}/cancel", timeout=30)
            assert {(await wait).json()["state"] for wait in waits} == {"cancelled"}
            for lines in told:
                assert "event: cancelled" in [line async for line in lines]

    asyncio.run(asyncio.wait_for(scene(), 120))


def test_events_come_as_pages_and_as_a_stream(http: httpx.Client, request_body: dict[str, Any]) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    http.post(f"/v1/jobs/{job}/cancel")
    page = http.get(f"/v1/jobs/{job}/events?page_size=1").json()
    assert [event["type"] for event in page["items"]] == ["queued"]
    rest = http.get(f"/v1/jobs/{job}/events", params={"page_token": page["next_page_token"]}).json()
    assert [(event["seq"], event["type"]) for event in rest["items"]] == [(2, "cancelled")]
    stream = http.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "1"})
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert [line for line in stream.text.splitlines() if line.startswith(("id", "event"))] == ["id: 2", "event: cancelled"]


def test_another_team_sees_nothing(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    base, data = request_body["models"]["base"], request_body["datasets"][0]
    with service.client(new_team(service)) as other:
        assert other.get("/v1/jobs").json()["items"] == []
        for path in (f"jobs/{job}", f"jobs/{job}/events", f"jobs/{job}/report", f"models/{base}", f"datasets/{data}"):
            problem(other.get(f"/v1/{path}"), 404, "not_found")
        problem(other.post(f"/v1/jobs/{job}/cancel"), 404, "not_found")
        problem(other.post("/v1/jobs", json=request_body), 404, "not_found", "models.base")
        problem(other.delete(f"/v1/models/{base}"), 404, "not_found")


def test_what_a_job_needs_cannot_be_deleted(http: httpx.Client, request_body: dict[str, Any]) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    base = request_body["models"]["base"]
    assert job in problem(http.delete(f"/v1/models/{base}"), 409, "in_use")["cause"]
    http.post(f"/v1/jobs/{job}/cancel")
    assert http.delete(f"/v1/models/{base}").status_code == 204
    problem(http.get(f"/v1/models/{base}"), 404, "not_found")


def test_a_job_is_accepted_while_the_broker_is_down(database: Database, tmp_path: Path) -> None:
    service = Service(tmp_path / "home", database, broker="redis://127.0.0.1:1/0")
    service.start_api()
    try:
        with service.client() as http:
            body = {
                "models": {"base": ready_model(service, http)},
                "datasets": [ready_dataset(service, http)],
                "recipe": "quick",
            }
            assert http.post("/v1/jobs", json=body).status_code == 202
        wait_for(lambda: "wake_up_lost" in service.log("api"))
    finally:
        service.stop()


def test_oversized_and_malformed_bodies(http: httpx.Client) -> None:
    problem(http.post("/v1/models", content=b"x" * (2 << 20), headers={"Content-Type": "application/json"}), 413, "too_large")
    chunks = (b" " * (1 << 20) for _ in range(2))
    problem(http.post("/v1/models", content=chunks, headers={"Content-Type": "application/json"}), 413, "too_large")
    problem(http.post("/v1/models", content=b"{", headers={"Content-Type": "application/json"}), 422, "invalid_request")
    problem(http.get("/v1/nowhere"), 404, "not_found")
    problem(http.patch("/v1/jobs"), 405, "method_not_allowed")


def test_a_nul_is_refused_wherever_it_stands(http: httpx.Client, request_body: dict[str, Any]) -> None:
    for path in ("/v1/jobs/%00", "/v1/models/%00", "/v1/artifacts/%00/files/x", "/v1/jobs?model=%00", "/v1/jobs?label=a:%00"):
        problem(http.get(path), 422, "invalid_request")
    problem(http.get("/v1/jobs?page_token=AA"), 422, "invalid_request", "page_token")
    files = [entry("a", b"1")]
    data = {"name": "d", "format": "jsonl", "columns": {"text": "\0"}, "splits": {"train": ["a"]}, "files": files}
    for path, body in (
        ("/v1/models", {"name": "a\0", "files": files}),
        ("/v1/datasets", data),
        ("/v1/keys", {"name": "\0"}),
        ("/v1/jobs", {**request_body, "name": "\0"}),
        ("/v1/jobs", {**request_body, "labels": {"a": "\0"}}),
        ("/v1/jobs", {**request_body, "labels": {"\0": "a"}}),
        ("/v1/jobs", {**request_body, "models": {"base": "\0"}}),
    ):
        problem(http.post(path, json=body), 422, "invalid_request")


def test_a_label_is_what_a_filter_can_spell(http: httpx.Client, request_body: dict[str, Any]) -> None:
    for key in ('a"b', "a\\b", "a:b"):
        problem(http.post("/v1/jobs", json={**request_body, "labels": {key: "x"}}), 422, "invalid_request")
    for sought in ('a"b:x', '"].a:x', "a\\:x"):
        problem(http.get("/v1/jobs", params={"label": sought}), 422, "invalid_request", "label")
    job = http.post("/v1/jobs", json={**request_body, "labels": {"größe'%s.$[0]": "a:b"}}).json()["id"]
    found = http.get("/v1/jobs", params={"label": "größe'%s.$[0]:a:b"}).json()["items"]
    assert [item["id"] for item in found] == [job]


def test_numbers_beyond_reason_are_no_bug_of_ours(http: httpx.Client, request_body: dict[str, Any]) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    problem(http.get(f"/v1/jobs/{job}/events?after={2**70}"), 422, "invalid_request", "after")
    far = base64.urlsafe_b64encode(b"9" * 30).decode()
    problem(http.get(f"/v1/jobs/{job}/events?page_token={far}"), 422, "invalid_request", "page_token")
    live = {"Accept": "text/event-stream", "Last-Event-ID": str(2**70)}
    problem(http.get(f"/v1/jobs/{job}/events", headers=live), 422, "invalid_request")
    for wait in ("²".encode("latin-1"), b"9" * 400):
        with contextlib.suppress(httpx.ReadTimeout):
            assert http.get(f"/v1/jobs/{job}", headers={"Prefer": b"wait=" + wait}, timeout=0.5).status_code == 200
    assert ranges.parse("bytes=" + "9" * 5000 + "-", None, '"a"', 10) is None


@pytest.mark.parametrize("target", ["speed_up", "retention"])
def test_an_infinite_target_is_refused(http: httpx.Client, request_body: dict[str, Any], target: str) -> None:
    body = json.dumps({**request_body, "targets": {target: 0}}).replace(f'"{target}": 0', f'"{target}": 1e999')
    answer = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 422, "invalid_request", f"targets.{target}")


def test_reference_lists(http: httpx.Client) -> None:
    recipes = http.get("/v1/recipes").json()
    assert [item["name"] for item in recipes["items"]] == ["standard", "article", "quick"]
    assert "Prune" in recipes["schema"]["$defs"]
    names = [item["name"] for item in http.get("/v1/families").json()["items"]]
    assert names == ["bert", "distilbert", "roberta", "xlm-roberta", "electra", "mpnet"]
    assert set(http.get("/v1/queue").json()) == {"queued", "running"}
    assert http.get("/v1/workers").json()["items"] == []


def test_a_stream_ends_when_its_job_is_deleted(http: httpx.Client, request_body: dict[str, Any]) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    with http.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: queued"
        http.post(f"/v1/jobs/{job}/cancel")
        assert http.delete(f"/v1/jobs/{job}").status_code == 204
        list(lines)  # raises where the stream breaks off


def test_workers_do_not_tell_of_other_teams_jobs(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    job, worker, moment = http.post("/v1/jobs", json=request_body).json()["id"], new_id("wrk"), "2026-01-01 00:00:00.000000"
    columns, values = "id, kind, host, pid, facts, drain, started_at, seen_at", "%s, 'jobs', 'h', 1, '{}', %s, %s, %s"
    sql(service, f"INSERT INTO workers ({columns}) VALUES ({values})", worker, False, moment, moment)
    sql(service, "UPDATE jobs SET state = 'running', worker_id = %s WHERE id = %s", worker, job)
    with service.client(new_team(service)) as other:
        for client, seen in ((http, job), (other, None)):
            items = client.get("/v1/workers").json()["items"]
            assert [item["job"] for item in items if item["id"] == worker] == [seen]


def test_the_api_never_imports_torch() -> None:
    code = "import sys, app.main; print(sorted({'torch','transformers','onnxruntime','numpy','workers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("shared", ["sqlite"], indirect=True)
def test_a_gigabyte_goes_through_in_constant_memory(service: Service, http: httpx.Client) -> None:
    size, block = 1 << 30, bytes(1 << 20)
    digest = hashlib.sha256()
    for _ in range(size // len(block)):
        digest.update(block)
    body = {"name": "big", "files": [{"path": "w", "size": size, "sha256": digest.hexdigest()}]}
    made = http.post("/v1/models", json=body).json()["id"]
    api = psutil.Process(service.processes["api"].pid)
    most = 0

    def blocks() -> Iterator[bytes]:
        nonlocal most
        for number in range(size // len(block)):
            if number % 16 == 0:
                most = max(most, api.memory_info().rss)
            yield block

    assert http.put(f"/v1/models/{made}/files/w", content=blocks()).status_code == 200
    assert 0 < most < 150 << 20
    assert "torch" not in Path(f"/proc/{api.pid}/maps").read_text()
