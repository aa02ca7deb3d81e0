"""What each scope may do, and how keys end: by time, by rotation, by hand; and what ends with them."""

import base64
import sqlite3
from typing import Any

import httpx
import psycopg
import pytest

from app.accounts.auth import Requires, find_requirement
from app.api.openapi import iterate_routes
from app.main import app
from app.store.models import ADMIN, DEVICE, READ, WRITE
from tests.app.api.conftest import MOMENT as PAST, Json, new_team, problem, sql
from tests.app.api.finished import done
from tests.app.api.test_sessions import sign_in
from tests.conftest import Service, wait_for

ASKING = {("POST", "/v1/recipes/check"), ("POST", "/v1/jobs/{job_id}/targets")}
"""Ways that change nothing, for all their method."""


def made(http: httpx.Client, scope: str, **body: Any) -> Json:
    answer = http.post("/v1/keys", json={"name": scope, "scope": scope, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


def needs() -> dict[tuple[str, str], Requires | None]:
    """Whom each way under /v1 lets in."""
    routes = [route for route in iterate_routes(app.routes) if route.path.startswith("/v1")]
    return {(method, route.path): find_requirement(route.dependant) for route in routes for method in route.methods}


def test_every_way_declares_its_scope_and_every_change_more_than_reading() -> None:
    found = needs()
    assert len(found) > 40
    assert [way for way, needed in found.items() if needed is None] == []
    readers = {way for way, needed in found.items() if needed and needed.scope == READ and way[0] not in ("GET", "HEAD")}
    assert readers == ASKING
    admins = {way for way, needed in found.items() if needed and needed.scope == ADMIN}
    assert {("POST", "/v1/keys"), ("POST", "/v1/keys/{key_id}/rotate"), ("GET", "/v1/audit"), ("POST", "/v1/teams")} <= admins
    operators = {way for way, needed in found.items() if needed and needed.operator}
    assert operators == {("POST", "/v1/teams"), ("PATCH", "/v1/teams/{team_id}"), ("DELETE", "/v1/teams/{team_id}")}


def test_openapi_names_the_ways_in_and_each_path_s_scope() -> None:
    schema = app.openapi()
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert schema["components"]["securitySchemes"]["browser"]["in"] == "cookie"
    for (method, path), needed in needs().items():
        operation = schema["paths"][path.replace(":path", "")][method.lower()]
        assert operation["security"] == [{"key": [needed.scope]}, {"browser": [needed.scope]}], path
    assert "security" not in schema["paths"]["/healthz/live"]["get"]


def test_admins_alone_make_keys_and_end_those_of_others(http: httpx.Client, service: Service) -> None:
    writer, other = made(http, WRITE), made(http, READ)
    with service.client(writer["key"]) as writing:
        for method, path in (("POST", "/v1/keys"), ("POST", f"/v1/keys/{other['id']}/rotate"), ("GET", "/v1/audit")):
            told = problem(writing.request(method, path, json={"name": "x"}), 403, "insufficient_scope")
            assert "`admin`" in told["cause"]
        problem(writing.delete(f"/v1/keys/{other['id']}"), 403, "insufficient_scope")
        mine = {key["id"]: key["mine"] for key in writing.get("/v1/keys").json()["items"]}
        assert mine[writer["id"]]
        assert sum(mine.values()) == 1
        assert writing.delete(f"/v1/keys/{writer['id']}").status_code == 204
        problem(writing.get("/v1/keys"), 401, "unauthorized")
    assert http.delete(f"/v1/keys/{other['id']}").status_code == 204


def test_a_device_reads_artifacts_and_no_more(http: httpx.Client, service: Service, request_body: Json) -> None:
    job = done(service, http, request_body)
    device = made(http, DEVICE)["key"]
    allowed = {way for way, needed in needs().items() if needed and needed.admits(DEVICE)}
    assert allowed == {
        ("GET", "/v1/artifacts/{artifact_id}"),
        ("GET", "/v1/artifacts/{artifact_id}/files/{path:path}"),
        ("HEAD", "/v1/artifacts/{artifact_id}/files/{path:path}"),
        ("GET", "/v1/jobs/{job_id}/artifacts"),
        ("GET", "/v1/devices"),
        ("POST", "/v1/devices/{device_id}/claim"),
        *(("POST", f"/v1/profiles/{{profile_id}}/{verb}") for verb in ("heartbeat", "release", "result")),
    }
    with service.client(device) as machine:
        assert machine.get(f"/v1/jobs/{job}/artifacts").status_code == 200
        assert machine.get("/v1/devices").json()["items"] == []
        problem(machine.post("/v1/devices/dev_0/claim"), 404, "not_found")
        problem(machine.post("/v1/jobs?validate_only=true", json=request_body), 403, "insufficient_scope")
        assert sign_in(machine, device).status_code == 403


def test_a_key_for_reading_may_ask_for_a_forecast(http: httpx.Client, service: Service, request_body: Json) -> None:
    with service.client(made(http, READ)["key"]) as eyes:
        forecast = eyes.post("/v1/jobs?validate_only=true", json=request_body)
        assert forecast.status_code == 200, forecast.text
        assert forecast.json() == http.post("/v1/jobs?validate_only=true", json=request_body).json()
        assert eyes.post("/v1/recipes/check", json={}).status_code == 200
        for path in ("/v1/jobs", "/v1/jobs?validate_only=false"):
            problem(eyes.post(path, json=request_body), 403, "read_only_key")
    assert http.get("/v1/jobs").json()["items"] == []


def test_a_key_ends_at_its_time_with_its_sessions_and_links(http: httpx.Client, service: Service, request_body: Json) -> None:
    job = done(service, http, request_body)
    key = made(http, WRITE, expires_in=3600)
    assert key["expires_at"] > key["created_at"]
    assert key["made_by"] == service.database.key.split("_")[1]
    with service.client(key["key"]) as brief, httpx.Client(base_url=service.url) as browser:
        sign_in(browser, key["key"])
        link = brief.post(f"/v1/jobs/{job}/share", json={}).json()
        assert link["key"] == key["id"]
        assert httpx.get(link["url"]).status_code == browser.get("/v1/jobs").status_code == 200
        assert [one["id"] for one in http.get("/v1/shares").json()["items"]] == [link["id"]]
        sql(service, "UPDATE api_keys SET expires_at = %s WHERE id = %s", PAST, key["id"])
        for client in (brief, browser):
            problem(client.get("/v1/jobs"), 401, "unauthorized")
        assert browser.get("/jobs").status_code == 303
    assert httpx.get(link["url"]).status_code == 404
    assert http.get("/v1/shares").json()["items"] == http.get(f"/v1/jobs/{job}/share").json()["items"] == []
    assert key["id"] not in [one["id"] for one in http.get("/v1/keys").json()["items"]]
    problem(http.delete(f"/v1/keys/{key['id']}"), 404, "not_found")
    problem(http.post("/v1/keys", json={"name": "x", "expires_in": 59}), 422, "invalid_request", "expires_in")


def test_a_link_ends_when_the_key_that_made_it_is_revoked(http: httpx.Client, service: Service, request_body: Json) -> None:
    job, key = done(service, http, request_body), made(http, WRITE)
    with service.client(key["key"]) as sharing:
        link = sharing.post(f"/v1/jobs/{job}/share", json={}).json()
    stays = http.post(f"/v1/jobs/{job}/share", json={}).json()
    assert httpx.get(link["url"]).status_code == 200
    http.delete(f"/v1/keys/{key['id']}")
    assert httpx.get(link["url"]).status_code == 404
    assert httpx.get(stays["url"]).status_code == 200
    # A link of before links knew their key lasts until its own end.
    sql(service, "UPDATE share_links SET key_id = NULL WHERE id = %s", link["id"])
    assert httpx.get(link["url"]).status_code == 200


def test_the_team_s_links_come_in_pages_and_are_its_own(http: httpx.Client, service: Service, request_body: Json) -> None:
    job = done(service, http, request_body)
    made_here = [http.post(f"/v1/jobs/{job}/share", json={}).json()["id"] for _ in range(3)]
    first = http.get("/v1/shares?page_size=2")
    assert 'rel="next"' in first.headers["link"]
    rest = http.get("/v1/shares", params={"page_size": 2, "page_token": first.json()["next_page_token"]}).json()
    items = first.json()["items"] + rest["items"]
    assert [one["id"] for one in items] == made_here[::-1]
    assert {one["url"] for one in items} == {None}
    assert rest["next_page_token"] is None
    with service.client(new_team(service)) as stranger:
        assert stranger.get("/v1/shares").json()["items"] == []


def test_the_old_key_works_beside_the_new_one_until_a_set_time(http: httpx.Client, service: Service) -> None:
    old = made(http, WRITE, expires_in=30 * 24 * 3600)
    new = http.post(f"/v1/keys/{old['id']}/rotate", json={"overlap": 600}).json()
    assert (new["name"], new["scope"], new["replaces"]) == (old["name"], WRITE, old["id"])
    for key in (old, new):
        with service.client(key["key"]) as either:
            assert either.get("/v1/jobs").status_code == 200
    listed = {key["id"]: key for key in http.get("/v1/keys").json()["items"]}
    assert listed[old["id"]]["expires_at"] < old["expires_at"] <= new["expires_at"]
    problem(http.post(f"/v1/keys/{old['id']}/rotate", json={}), 409, "already_rotated")
    sql(service, "UPDATE api_keys SET expires_at = %s WHERE id = %s", PAST, old["id"])
    with service.client(old["key"]) as late, service.client(new["key"]) as either:
        problem(late.get("/v1/jobs"), 401, "unauthorized")
        assert either.get("/v1/jobs").status_code == 200
    last = http.post(f"/v1/keys/{new['id']}/rotate", json={"overlap": 0, "expires_in": 60}).json()
    with service.client(new["key"]) as late:
        problem(late.get("/v1/jobs"), 401, "unauthorized")
    assert last["expires_at"] < new["expires_at"]


@pytest.mark.parametrize("lifetime", [{}, {"expires_in": 30 * 24 * 3600}])
def test_a_key_whose_replacement_was_revoked_is_rotated_again(http: httpx.Client, lifetime: Json) -> None:
    old = made(http, WRITE, **lifetime)
    lost = http.post(f"/v1/keys/{old['id']}/rotate", json={"overlap": 600}).json()
    assert http.delete(f"/v1/keys/{lost['id']}").is_success
    new = http.post(f"/v1/keys/{old['id']}/rotate", json={"overlap": 600}).json()
    assert new["replaces"] == old["id"]
    assert new["expires_at"] is None if not lifetime else new["expires_at"] >= old["expires_at"]


def last_use(http: httpx.Client, key: str) -> Any:
    return next(one["last_used_at"] for one in http.get("/v1/keys").json()["items"] if one["id"] == key)


def test_a_key_s_last_use_is_kept_but_not_written_with_each_request(http: httpx.Client, service: Service) -> None:
    key = made(http, READ)
    assert last_use(http, key["id"]) is None
    with service.client(key["key"]) as eyes:
        eyes.get("/v1/jobs")
        first = wait_for(lambda: last_use(http, key["id"]))
        sql(service, "UPDATE api_keys SET last_used_at = %s WHERE id = %s", PAST, key["id"])
        for _ in range(5):
            eyes.get("/v1/jobs")
        # Another key's first use goes the same way, later: once it is there, these five would be.
        other = made(http, READ)
        with service.client(other["key"]) as others:
            others.get("/v1/jobs")
        wait_for(lambda: last_use(http, other["id"]))
        assert str(last_use(http, key["id"])).startswith("2026-01-01")
        assert not str(first).startswith("2026-01-01")


def test_no_request_waits_for_a_key_s_last_use(shared: Service, service: Service, http: httpx.Client) -> None:
    key = made(http, READ)
    with service.client(key["key"]) as eyes:
        if shared.database.kind == "sqlite":
            lock: Any = sqlite3.connect(shared.database.url.removeprefix("sqlite:///"), isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
        else:
            lock = psycopg.connect(shared.database.url)
            lock.execute("SELECT 1 FROM api_keys WHERE id = %s FOR UPDATE", (key["id"],))
        try:
            assert eyes.get("/v1/jobs", timeout=20).status_code == 200  # the lock is held until the answer is here
        finally:
            lock.close()
    assert wait_for(lambda: last_use(http, key["id"]))


def test_keys_come_in_pages_oldest_first(http: httpx.Client) -> None:
    for number in range(4):
        http.post("/v1/keys", json={"name": f"k{number}"})
    keys, asked = [], {"page_size": 2}
    while asked.get("page_token", "first"):
        page = http.get("/v1/keys", params=asked).json()
        keys += page["items"]
        asked["page_token"] = page["next_page_token"]
    assert [(key["name"], key["key"]) for key in keys] == [(name, None) for name in ("first", "k0", "k1", "k2", "k3")]
    unknown = base64.urlsafe_b64encode(b"nobody").decode()
    assert http.get("/v1/keys", params={"page_token": unknown}).json()["items"] == []
    problem(http.get("/v1/keys", params={"page_token": "?"}), 422, "invalid_request", "page_token")


@pytest.mark.parametrize("ended", ["revoked", "expired", "wrong"])
def test_what_does_not_let_in_says_the_same_to_all(http: httpx.Client, service: Service, ended: str) -> None:
    key = made(http, READ)
    text = key["key"]
    if ended == "revoked":
        http.delete(f"/v1/keys/{key['id']}")
    elif ended == "expired":
        sql(service, "UPDATE api_keys SET expires_at = %s WHERE id = %s", PAST, key["id"])
    else:
        text = text[:-1] + ("a" if text[-1] != "a" else "b")
    with service.client(text) as late:
        assert "unknown, revoked or expired" in problem(late.get("/v1/jobs"), 401, "unauthorized")["cause"]
    rows = wait_for(lambda: http.get("/v1/audit?action=sessions.refused").json()["items"])
    assert [(row["key"], row["outcome"]) for row in rows] == [(key["id"], "wrong_secret" if ended == "wrong" else ended)]
