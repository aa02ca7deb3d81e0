"""What a team may take: each limit is told with its use and with what frees it, and refuses what goes beyond it."""

import datetime as dt
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.app.api.conftest import Json, entry, job_body, problem, sql
from tests.conftest import ROOT, Service, wait_for
from tests.support.saying import says


def limit(service: Service, **own: int) -> None:
    """Give the team of a service's key limits of its own."""
    key = service.database.key.split("_")[1]
    sql(service, "UPDATE teams SET quotas = %s WHERE id = (SELECT team_id FROM api_keys WHERE id = %s)", json.dumps(own), key)


def told(http: httpx.Client) -> dict[str, Json]:
    return {one["name"]: one for one in http.get("/v1/quotas").json()["items"]}


def refused(answer: httpx.Response, status: int, code: str, name: str, most: int, used: float) -> Json:
    quota: Json = problem(answer, status, code)["quota"]
    assert (quota["name"], quota["limit"], quota["used"]) == (name, most, used)
    assert quota["frees"]
    return quota


def test_a_team_has_as_many_jobs_waiting_as_it_may(service: Service, http: httpx.Client, request_body: Json) -> None:
    limit(service, jobs_waiting=2)
    made = [http.post("/v1/jobs", json=request_body).json()["id"] for _ in range(2)]
    again = {"Idempotency-Key": "third"}
    refused(http.post("/v1/jobs", json=request_body, headers=again), 403, "quota_exceeded", "jobs_waiting", 2, 2)
    assert told(http)["jobs_waiting"]["used"] == 2
    http.post(f"/v1/jobs/{made[0]}/cancel")
    assert told(http)["jobs_waiting"]["used"] == 1
    assert http.post("/v1/jobs", json=request_body, headers=again).status_code == 202  # the refusal used up no key
    refused(http.post(f"/v1/jobs/{made[0]}/retry"), 403, "quota_exceeded", "jobs_waiting", 2, 2)


def test_a_team_that_stores_all_it_may_gets_no_more_jobs(service: Service, http: httpx.Client, request_body: Json) -> None:
    kept = told(http)["bytes_stored"]["used"]
    limit(service, bytes_stored=int(kept))
    refused(http.post("/v1/jobs", json=request_body), 507, "bytes_quota_exceeded", "bytes_stored", int(kept), kept)
    limit(service, bytes_stored=int(kept) + 1)
    assert http.post("/v1/jobs", json=request_body).status_code == 202


def test_files_without_bytes_are_counted(service: Service, http: httpx.Client) -> None:
    before = int(told(http)["files"]["used"])
    limit(service, files=before + 5)
    files = [entry(f"{number}.txt", b"") for number in range(6)]
    body = {"name": "d", "format": "text", "splits": {"train": ["0.txt"]}, "task": "causal-lm", "files": files}
    refused(http.post("/v1/datasets", json=body), 403, "quota_exceeded", "files", before + 5, before)
    assert http.post("/v1/datasets", json={**body, "files": files[:5]}).status_code == 201
    assert told(http)["files"]["used"] == before + 5


def test_a_limit_of_none_is_the_operators_to_raise(service: Service, http: httpx.Client, request_body: Json) -> None:
    limit(service, jobs_waiting=0, worker_hours=1)
    found = problem(http.post("/v1/jobs", json=request_body), 403, "quota_exceeded")
    assert found["quota"]["frees"] == "only the operator can raise the limit"
    assert found["remedy"].startswith("Only the operator can raise the limit")


def test_the_operators_command_makes_no_database_where_there_is_none(tmp_path: Path) -> None:
    left = {name: value for name, value in os.environ.items() if not name.startswith("LATHE_")}
    command = [sys.executable, "-m", "app.quotas", "default"]
    ran = subprocess.run(command, cwd=ROOT, env={**left, "LATHE_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert ran.returncode == 2
    assert f"there is no {tmp_path / 'lathe.db'}" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_is_named_alone_is_not_reset(service: Service, http: httpx.Client) -> None:
    limit(service, jobs_waiting=7)
    left = {name: value for name, value in os.environ.items() if not name.startswith("LATHE_")}
    own = {"LATHE_HOME": str(service.home), "LATHE_DATABASE_URL": service.database.url}
    command = [sys.executable, "-m", "app.quotas", "default", "jobs_waiting"]
    ran = subprocess.run(command, cwd=ROOT, env={**left, **own}, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "write NAME=NUMBER" in ran.stderr
    assert told(http)["jobs_waiting"]["limit"] == 7


def test_hours_of_workers_are_those_of_this_month(service: Service, http: httpx.Client, request_body: Json) -> None:
    today = dt.datetime.now(dt.UTC)
    begun = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before = f"{begun - dt.timedelta(days=2):%Y-%m-%d %H:%M:%S}.000000"
    for ended in (begun + dt.timedelta(minutes=30), begun - dt.timedelta(days=9)):  # the first one counts in this month
        job = http.post("/v1/jobs", json=request_body).json()["id"]
        ended_at = f"{ended:%Y-%m-%d %H:%M:%S}.000000"
        sql(service, "UPDATE jobs SET state = 'failed', worker_seconds = 3600, finished_at = %s WHERE id = %s", ended_at, job)
    assert told(http)["worker_hours"]["used"] == 1
    long = http.post("/v1/jobs", json=request_body).json()["id"]
    sql(service, "UPDATE jobs SET state = 'running', claimed_at = %s WHERE id = %s", before, long)
    limit(service, worker_hours=1)  # which the first job alone has used, for the month may have begun just now
    quota = problem(http.post("/v1/jobs", json=request_body), 403, "quota_exceeded")["quota"]
    assert (quota["name"], quota["limit"]) == ("worker_hours", 1)
    assert quota["used"] == pytest.approx(1 + (today - begun).total_seconds() / 3600, abs=0.2)
    assert dt.datetime.fromisoformat(quota["frees_at"]) == (begun + dt.timedelta(days=32)).replace(day=1)


def test_what_manifests_promise_is_stored_already(service: Service, http: httpx.Client) -> None:
    limit(service, bytes_stored=10)
    body = {"name": "m", "files": [entry("config.json", b"123456")]}
    first = http.post("/v1/models", json=body).json()["id"]
    refused(http.post("/v1/models", json=body), 507, "bytes_quota_exceeded", "bytes_stored", 10, 6)
    assert http.delete(f"/v1/models/{first}").status_code == 204
    assert http.post("/v1/models", json=body).status_code == 201


def test_bytes_under_way_are_bounded(service: Service, http: httpx.Client) -> None:
    limit(service, bytes_arriving=5)
    files = [entry("a.jsonl", b"12345"), entry("b.jsonl", b"123456")]
    data = {"name": "d", "format": "jsonl", "splits": {"train": ["a.jsonl"]}, "files": files}
    place = f"/v1/datasets/{http.post('/v1/datasets', json=data).json()['id']}/files"
    refused(http.put(f"{place}/b.jsonl", content=b"123456"), 507, "bytes_quota_exceeded", "bytes_arriving", 5, 0)
    assert http.put(f"{place}/a.jsonl", content=b"12345").status_code == 200
    assert told(http)["bytes_arriving"]["used"] == 0


def test_streams_are_bounded_and_end_when_they_end(service: Service, http: httpx.Client, request_body: Json) -> None:
    limit(service, streams=2)
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    places = (f"/v1/jobs/{job}/events", "/v1/jobs", f"/v1/jobs/{job}/events")
    events = {"Accept": "text/event-stream"}
    with ExitStack() as opened:
        for place in places[:2]:
            assert opened.enter_context(http.stream("GET", place, headers=events)).status_code == 200
        answer = http.get(places[2], headers=events)
        refused(answer, 429, "too_many_streams", "streams", 2, 2)
        assert int(answer.headers["retry-after"]) > 0
        assert told(http)["streams"]["used"] == 2
    wait_for(lambda: told(http)["streams"]["used"] == 0)
    with http.stream("GET", places[0], headers=events) as again:
        assert again.status_code == 200


def test_lists_carry_no_files(service: Service, http: httpx.Client) -> None:
    files = [entry(f"{number}.jsonl", b"x" * number) for number in range(1, 4)]
    body = {"name": "d", "format": "jsonl", "splits": {"train": ["1.jsonl"]}, "files": files}
    made = http.post("/v1/datasets", json=body).json()
    assert (made["file_count"], made["bytes"], len(made["files"])) == (3, 6, 3)
    item = http.get("/v1/datasets").json()["items"][0]
    assert "files" not in item
    assert item == {name: value for name, value in made.items() if name != "files"}
    assert len(http.get(f"/v1/datasets/{made['id']}").json()["files"]) == 3
    assert http.post("/v1/models", json={"name": "m", "files": [entry("config.json", b"{}")]}).status_code == 201
    assert "files" not in http.get("/v1/models").json()["items"][0]


def test_the_fleet_s_page_shows_the_limits(service: Service, http: httpx.Client, browser: httpx.Client) -> None:
    limit(service, jobs_waiting=7, bytes_stored=3_000_000)
    http.post("/v1/jobs", json=job_body(service, http))
    shown = browser.get("/fleet").text
    says(shown, "Jobs waiting", '<progress max="7" value="1', "3.00 MB", "delete models, datasets or jobs")
