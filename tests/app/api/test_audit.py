"""The audit log: each change leaves one row, with its own transaction; each refusal too; admins read it."""

import csv
import io
import json
from typing import Any

import httpx

from app.core.ids import new_id
from tests.app.api.conftest import Json, new_team, problem, sql
from tests.app.api.test_sessions import sign_in, token
from tests.conftest import Service, wait_for


def told(http: httpx.Client, **asked: Any) -> list[tuple[str, str | None, str]]:
    """Action, object and outcome of the team's rows, oldest first."""
    items = http.get("/v1/audit", params={"page_size": 200, **asked}).json()["items"]
    return [(item["action"], item["object"], item["outcome"]) for item in items[::-1]]


def test_each_change_leaves_a_row_with_who_what_and_whence(http: httpx.Client, service: Service, request_body: Json) -> None:
    base, data = request_body["models"]["base"], request_body["datasets"][0]
    job = http.post("/v1/jobs", json=request_body, headers={"X-Request-Id": "look-for-me"}).json()["id"]
    http.get(f"/v1/jobs/{job}")
    http.post("/v1/jobs?validate_only=true", json=request_body)
    http.post(f"/v1/jobs/{job}/cancel")
    again = http.post(f"/v1/jobs/{job}/retry").json()["id"]
    http.post(f"/v1/jobs/{again}/cancel")
    http.delete(f"/v1/jobs/{job}")
    key = http.post("/v1/keys", json={"name": "ci"}).json()["id"]
    new = http.post(f"/v1/keys/{key}/rotate", json={}).json()["id"]
    http.delete(f"/v1/keys/{new}")
    of_jobs = [("jobs.create", job), ("jobs.cancel", job), ("jobs.retry", again), ("jobs.cancel", again), ("jobs.delete", job)]
    of_keys = [("keys.create", key), ("keys.rotate", f"{key} {new}"), ("keys.revoke", new)]
    all_ok = [(*each, "ok") for each in (("models.create", base), ("datasets.create", data), *of_jobs, *of_keys)]
    assert told(http) == all_ok
    assert (told(http, object=key), told(http, object=new)) == (all_ok[-3:-1], all_ok[-2:])
    (row,) = http.get("/v1/audit?action=jobs.create").json()["items"]
    expected = (service.database.key.split("_")[1], "127.0.0.1", "look-for-me")
    assert (row["key"], row["address"], row["request_id"]) == expected
    assert told(http, object=job, outcome="ok", action="jobs") == [each for each in all_ok if each[1] == job]


def test_a_refusal_leaves_a_row_though_nothing_changed(http: httpx.Client, service: Service, request_body: Json) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    reader = http.post("/v1/keys", json={"name": "r", "scope": "read"}).json()
    with service.client(reader["key"]) as eyes:
        problem(eyes.post(f"/v1/jobs/{job}/cancel"), 403, "read_only_key")
        problem(eyes.get("/v1/audit"), 403, "insufficient_scope")
        problem(eyes.get("/v1/jobs/job_none"), 404, "not_found")  # it asked, and changed nothing
    problem(http.delete(f"/v1/jobs/{job}"), 409, "wrong_state")
    problem(http.post("/v1/jobs", json={}), 422, "invalid_request")
    refused = [("jobs.cancel", job, "read_only_key"), ("audit.list", None, "insufficient_scope")]
    assert told(http, key=reader["id"]) == refused
    assert told(http)[-4:] == [*refused, ("jobs.delete", job, "wrong_state"), ("jobs.create", None, "invalid_request")]
    with service.client(new_team(service)) as stranger:
        problem(stranger.post(f"/v1/jobs/{job}/cancel"), 404, "not_found")
        assert told(stranger) == [("jobs.cancel", job, "not_found")]
    assert len(told(http, action="jobs.cancel")) == 1


def test_a_change_and_its_row_are_there_both_or_neither(http: httpx.Client, service: Service, request_body: Json) -> None:
    full = "no room for what was done"
    if service.database.kind == "sqlite":
        refuse = f"CREATE TRIGGER no_room BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, '{full}'); END"
        undo = "DROP TRIGGER no_room"
    else:
        refuse = "ALTER TABLE audit_log ADD CONSTRAINT no_room CHECK (false) NOT VALID"
        undo = "ALTER TABLE audit_log DROP CONSTRAINT no_room"
    sql(service, refuse)
    try:
        with service.client() as another:  # an answer of 500 ends its connection
            assert another.post("/v1/jobs", json=request_body).status_code == 500
    finally:
        sql(service, undo)
    assert http.get("/v1/jobs").json()["items"] == []
    assert told(http, action="jobs") == []


def test_sending_a_request_again_tells_of_it_once(http: httpx.Client, request_body: Json) -> None:
    once = {"Idempotency-Key": new_id("k")}
    first, again = (http.post("/v1/jobs", json=request_body, headers=once) for _ in range(2))
    assert again.headers["idempotency-replayed"] == "true"
    assert told(http, action="jobs") == [("jobs.create", first.json()["id"], "ok")]


def test_signing_in_and_out_and_a_forged_change_are_told(http: httpx.Client, service: Service) -> None:
    with httpx.Client(base_url=service.url) as browser:
        assert sign_in(browser, service.database.key).status_code == 303
        problem(browser.post("/v1/models", json={"name": "m", "files": []}), 403, "csrf_failed")
        assert browser.post("/sign-out", data={"csrf_token": token(browser)}).status_code == 303
    assert told(http) == [("sessions.begin", None, "ok"), ("models.create", None, "csrf_failed"), ("sessions.end", None, "ok")]


def test_what_a_page_refuses_is_told_by_its_code(http: httpx.Client, service: Service) -> None:
    reader = http.post("/v1/keys", json={"name": "r", "scope": "read"}).json()
    with httpx.Client(base_url=service.url) as browser:
        sign_in(browser, reader["key"])
        assert browser.get("/audit", headers={"Accept": "text/html"}).status_code == 403
    assert [outcome for *_, outcome in told(http, key=reader["id"])][-1] == "insufficient_scope"


def test_it_comes_in_pages_and_as_a_table_that_runs_nothing(http: httpx.Client, service: Service) -> None:
    for _ in range(3):
        http.post("/v1/keys", json={"name": "k"})
    problem(http.delete("/v1/keys/=cmd()"), 404, "not_found")
    first = http.get("/v1/audit?page_size=3&format=csv")
    assert first.headers["content-type"].startswith("text/csv")
    assert "lathe-audit.csv" in first.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(first.text)))
    assert [row["action"] for row in rows] == ["keys.revoke", "keys.create", "keys.create"]
    assert rows[0]["object"] == "'=cmd()"
    following = first.headers["link"].split(";")[0].strip("<>")
    assert len(list(csv.DictReader(io.StringIO(http.get(following).text)))) == 1


def test_request_lines_name_key_and_team(http: httpx.Client, service: Service) -> None:
    team = http.get("/v1/teams").json()["items"][0]["id"]
    name = new_id("req")
    http.get("/v1/jobs", headers={"X-Request-Id": name})
    lines = wait_for(lambda: [line for line in service.log("api").splitlines() if name in line])
    line = json.loads(lines[0])
    assert (line["key"], line["team"]) == (service.database.key.split("_")[1], team)
    assert service.database.key not in service.log("api")
