"""Who gets in, and what another team sees: nothing."""

from typing import Any

import httpx

from app.core.ids import new_id
from tests.app.api.conftest import new_team, problem, sql
from tests.conftest import Service


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


def test_workers_do_not_tell_of_other_teams_jobs(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    job, worker, moment = http.post("/v1/jobs", json=request_body).json()["id"], new_id("wrk"), "2026-01-01 00:00:00.000000"
    columns, values = "id, kind, host, pid, facts, drain, started_at, seen_at", "%s, 'jobs', 'h', 1, '{}', %s, %s, %s"
    sql(service, f"INSERT INTO workers ({columns}) VALUES ({values})", worker, False, moment, moment)
    sql(service, "UPDATE jobs SET state = 'running', worker_id = %s WHERE id = %s", worker, job)
    with service.client(new_team(service)) as other:
        for client, seen in ((http, job), (other, None)):
            items = client.get("/v1/workers").json()["items"]
            assert [item["job"] for item in items if item["id"] == worker] == [seen]
