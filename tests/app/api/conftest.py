"""The API as its callers meet it: a real uvicorn process over each database, one for a file of tests, and a new team a test."""

import hashlib
import json
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.core.ids import ALPHABET, new_id
from tests.client.figures import DATA_FACTS, MODEL_FACTS
from tests.conftest import DATABASES, Service, fresh_database, over_sqlite, started

Json = dict[str, Any]
SCRAPE = "for-prometheus-alone"
MOMENT = "2026-01-01 00:00:00.000000"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(path: str, data: bytes) -> Json:
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


def insert(service: Service, table: str, **values: object) -> None:
    sql(service, f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})", *values.values())


def add_artifact(service: Service, job: str, path: str, data: bytes, facts: Json, name: str = "int8") -> str:
    """Store an artifact of one file, as a worker does; return its id."""
    return add_artifact_of(service, job, {path: data}, facts, name)


def add_artifact_of(service: Service, job: str, contents: dict[str, bytes], facts: Json, name: str = "int8") -> str:
    """Store an artifact of several files."""
    artifact = new_id("art")
    named = {"id": artifact, "job_id": job, "fence": 1, "name": name, "facts": json.dumps(facts), "created_at": MOMENT}
    insert(service, "artifacts", **named)
    for number, (path, data) in enumerate(contents.items()):
        kept = service.home / "storage" / "made" / artifact / str(number)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        content = {"size": len(data), "sha256": sha(data), "key": f"made/{artifact}/{number}"}
        insert(service, "files", id=new_id("fil"), artifact_id=artifact, path=path, **content)
    return artifact


def new_team(service: Service) -> str:
    """Make a team behind the API's back; return its admin key."""
    team, key_id, secret = new_id("team"), "".join(random.choices(ALPHABET, k=10)), "s" * 43
    insert(service, "teams", id=team, name=team, created_at=MOMENT)
    made = {"name": "first", "scope": "admin", "secret_sha256": sha(secret.encode()), "created_at": MOMENT}
    insert(service, "api_keys", id=key_id, team_id=team, **made)
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
    with (
        fresh_database(request.param, postgres, templates, folder) as database,
        started(Service(folder / "home", database, valkey, settings={"LATHE_METRICS_TOKEN": SCRAPE})) as made,
    ):
        yield made


@pytest.fixture
def alone(templates: dict[str, str], valkey: str, tmp_path: Path) -> Iterator[Service]:
    """An API over SQLite of one test's own."""
    with over_sqlite(templates, valkey, tmp_path) as made:
        yield made


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


def job_body(service: Service, http: httpx.Client) -> Json:
    return {"models": {"base": ready_model(service, http)}, "datasets": [ready_dataset(service, http)], "recipe": "quick"}


@pytest.fixture
def request_body(service: Service, http: httpx.Client) -> Json:
    return job_body(service, http)


@pytest.fixture
def browser(service: Service) -> Iterator[httpx.Client]:
    """A browser that has signed in."""
    with httpx.Client(base_url=service.url, timeout=70) as client:
        assert client.post("/sign-in", data={"key": service.database.key}).status_code == 303
        yield client


def problem(answer: httpx.Response, status: int, code: str, param: str | None = None) -> Json:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: Json = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert body["cause"]
    assert body["remedy"]
    assert body["request_id"] == answer.headers["x-request-id"]
    if param:
        assert body["param"] == param
    return body
