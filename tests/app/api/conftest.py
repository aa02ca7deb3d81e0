"""The API as its callers meet it: a real uvicorn process over each database, one for a file of tests, and a new team a test."""

import hashlib
import json
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import psycopg
import pytest

from app.core.ids import ALPHABET, new_id
from tests.conftest import DATABASES, Service, fresh_database

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


SCRAPE = "for-prometheus-alone"


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


def new_team(service: Service) -> str:
    """Make a team behind the API's back; return its admin key."""
    team, key_id, secret = new_id("team"), "".join(random.choices(ALPHABET, k=10)), "s" * 43
    moment = "2026-01-01 00:00:00.000000"
    sql(service, "INSERT INTO teams (id, name, created_at) VALUES (%s, %s, %s)", team, team, moment)
    sql(
        service,
        "INSERT INTO api_keys (id, team_id, name, scope, secret_sha256, created_at) VALUES (%s, %s, 'first', 'admin', %s, %s)",
        key_id,
        team,
        sha(secret.encode()),
        moment,
    )
    return f"lathe_{key_id}_{secret}"


@pytest.fixture(scope="module", params=DATABASES)
def shared(
    request: pytest.FixtureRequest,
    postgres: str,
    templates: dict[str, str],
    valkey: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """One API for a file of tests over each database; each test has a team of its own in it."""
    folder = tmp_path_factory.mktemp("shared")
    with fresh_database(request.param, postgres, templates, folder) as database:
        made = Service(folder / "home", database, valkey, settings={"LATHE_METRICS_TOKEN": SCRAPE})
        made.start_api()
        yield made
        made.stop()


@pytest.fixture
def service(shared: Service) -> Service:
    """The shared API as a new team sees it."""
    return replace(shared, database=replace(shared.database, key=new_team(shared)))


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
