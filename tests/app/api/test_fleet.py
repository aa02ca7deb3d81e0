"""The fleet as a team sees it: its own in full, of others no more than sums."""

import json
from typing import Any

import httpx
import pytest

from tests.app.api.conftest import MOMENT, Json, entry, insert, new_team, problem, sql
from tests.conftest import Service

THEN, LATER = "2126-01-01 00:00:00.000000", "2126-01-01 00:10:00.000000"


def worker(service: Service, name: str, seen: str, **facts: Any) -> None:
    known = json.dumps({"confinement": "bubblewrap", **facts})
    lives = {"drain": False, "started_at": seen, "seen_at": seen}
    insert(service, "workers", id=name, kind="jobs", host="h", pid=1, facts=known, **lives)


def running(service: Service, http: httpx.Client, body: Json, by: str) -> str:
    job = str(http.post("/v1/jobs", json=body).json()["id"])
    sql(service, "UPDATE jobs SET state = 'running', worker_id = %s, started_at = %s WHERE id = %s", by, THEN, job)
    return job


@pytest.fixture
def service(service: Service) -> Service:
    """Queue, workers and usage are of all teams; what other tests left is no part of this one."""
    for table in ("workers", "events", "jobs", "files", "models", "datasets"):
        sql(service, f"DELETE FROM {table}")
    return service


def test_workers_say_how_long_they_are_silent_and_what_they_run(
    service: Service, http: httpx.Client, request_body: Json
) -> None:
    worker(service, "wkr_old", MOMENT)
    worker(service, "wkr_new", THEN, devices=["NVIDIA H100"])
    job = running(service, http, request_body, "wkr_new")
    new, old = http.get("/v1/workers").json()["items"]
    assert (new["id"], new["alive"], new["busy"], new["job"]) == ("wkr_new", True, True, job)
    assert new["facts"]["devices"] == ["NVIDIA H100"]
    assert (old["alive"], old["busy"], old["job"]) == (False, False, None)
    assert old["silent_seconds"] > 3600
    with service.client(new_team(service)) as stranger:
        seen = stranger.get("/v1/workers").json()["items"][0]
        assert (seen["busy"], seen["job"]) == (True, None)  # of whom, is not told


def test_a_worker_that_rests_says_until_when_and_to_operators_why(service: Service, http: httpx.Client) -> None:
    worker(service, "wkr_rests", THEN)
    worker(service, "wkr_over", MOMENT)
    rested = "UPDATE workers SET rests_until = %s, rest_reason = 'storage takes no write: OSError' WHERE id = %s"
    sql(service, rested, LATER, "wkr_rests")
    sql(service, rested, MOMENT, "wkr_over")
    rests, over = http.get("/v1/workers").json()["items"]
    assert rests["rests_until"].startswith("2126-01-01T00:10:00")
    assert (over["rests_until"], over["rest_reason"]) == (None, None)
    assert rests["rest_reason"] == ("storage takes no write: OSError" if rests["host"] else None)
    with service.client(new_team(service)) as stranger:
        seen = stranger.get("/v1/workers").json()["items"][0]
        assert (seen["host"], seen["rest_reason"]) == (None, None)
        assert seen["rests_until"] == rests["rests_until"]


def test_the_queue_tells_of_all_that_waits(service: Service, http: httpx.Client, request_body: Json) -> None:
    empty = {"queued": 0, "running": 0, "checks": 0, "tries": 0, "longest_wait_seconds": None}
    assert http.get("/v1/queue").json() == empty
    running(service, http, request_body, "w")
    first = http.post("/v1/jobs", json=request_body).json()["id"]
    http.post("/v1/jobs", json=request_body)
    sql(service, "UPDATE jobs SET created_at = '2026-01-01 00:00:00.000000' WHERE id = %s", first)
    sql(service, "UPDATE models SET state = 'validating'")
    found = http.get("/v1/queue").json()
    assert (found["queued"], found["running"], found["checks"], found["tries"]) == (2, 1, 1, 0)
    assert found["longest_wait_seconds"] > 3600


def test_usage_is_told_by_team_and_of_others_in_sum(service: Service, http: httpx.Client, request_body: Json) -> None:
    before = http.get("/v1/storage").json()
    assert (before["kind"], before["used_bytes"]) == ("file", 0)
    assert before["free_bytes"] > 0
    job = running(service, http, request_body, "w")
    sql(service, "UPDATE jobs SET state = 'failed', worker_seconds = 600, finished_at = %s WHERE id = %s", LATER, job)
    files = [entry("w.json", b"12345"), entry("x.json", b"123")]
    model = http.post("/v1/models", json={"name": "m", "files": files}).json()["id"]
    http.put(f"/v1/models/{model}/files/w.json", content=b"12345")  # x has not come, and takes no room
    with service.client(new_team(service)) as stranger:
        data = {"name": "d", "format": "jsonl", "splits": {"train": ["t.csv"]}, "files": [entry("t.csv", b"1234567")]}
        made = stranger.post("/v1/datasets", json=data).json()["id"]
        stranger.put(f"/v1/datasets/{made}/files/t.csv", content=b"1234567")
        theirs = stranger.get("/v1/usage").json()["items"]
    found = http.get("/v1/usage").json()["items"]
    assert [(one["mine"], one["team"] == "other teams") for one in found] == [(True, False), (False, True)]
    assert found[0]["jobs"]["failed"] == 1
    assert found[0]["worker_minutes"] == pytest.approx(10.0, abs=0.01)
    assert (found[0]["models_bytes"], found[0]["datasets_bytes"], found[0]["artifacts_bytes"]) == (5, 0, 0)
    assert (found[1]["models_bytes"], found[1]["datasets_bytes"], found[1]["worker_minutes"]) == (0, 7, 0.0)
    ours, others = ([{**one, "team": "", "mine": None} for one in seen] for seen in (found, reversed(theirs)))
    assert ours == others
    assert http.get("/v1/storage").json()["used_bytes"] == 12
    problem(http.get("/v1/usage?days=0"), 422, "invalid_request", "days")
