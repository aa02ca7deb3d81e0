"""Teams: admins of the team that runs the service make, rename and close them; everybody else sees his own."""

from collections.abc import Iterator

import httpx
import pytest

from tests.app.api.conftest import problem
from tests.conftest import Service


@pytest.fixture
def operator(shared: Service) -> Iterator[httpx.Client]:
    """An admin of the team that the first start made."""
    with shared.client() as client:
        yield client


def test_a_team_is_made_with_an_admin_key_renamed_and_closed(
    operator: httpx.Client, service: Service, database_name: str
) -> None:
    made = operator.post("/v1/teams", json={"name": f"vision {database_name}"}).json()
    with service.client(made["key"]) as admin:
        (mine,) = admin.get("/v1/teams").json()["items"]
        assert (mine["id"], mine["mine"], mine["operator"], mine["key"]) == (made["id"], True, False, None)
        assert admin.post("/v1/keys", json={"name": "ci"}).status_code == 201
        name = f"seeing {database_name}"
        assert operator.patch(f"/v1/teams/{made['id']}", json={"name": name}).json()["name"] == name
        assert admin.get(f"/v1/teams/{made['id']}").json()["name"] == name
        problem(operator.post("/v1/teams", json={"name": name}), 409, "name_taken", "name")
        assert operator.delete(f"/v1/teams/{made['id']}").status_code == 204
        problem(admin.get("/v1/teams"), 401, "unauthorized")
    assert operator.get(f"/v1/teams/{made['id']}").json()["name"] == name
    problem(operator.get("/v1/teams/team_none"), 404, "not_found")


def test_nobody_else_makes_teams_or_sees_others(operator: httpx.Client, http: httpx.Client, service: Service) -> None:
    (own,) = http.get("/v1/teams").json()["items"]
    others = {team["id"] for team in operator.get("/v1/teams", params={"page_size": 200}).json()["items"]}
    ours = next(team["id"] for team in operator.get("/v1/teams?page_size=200").json()["items"] if team["mine"])
    assert {own["id"], ours} <= others
    problem(http.get(f"/v1/teams/{ours}"), 404, "not_found")
    for method, path in (("POST", "/v1/teams"), ("PATCH", f"/v1/teams/{own['id']}"), ("DELETE", f"/v1/teams/{ours}")):
        told = problem(http.request(method, path, json={"name": "x"}), 403, "insufficient_scope")
        assert "the operating team" in told["cause"]
    writer = operator.post("/v1/keys", json={"name": "w", "scope": "write"}).json()["key"]
    with service.client(writer) as writing:  # of the right team, but no admin
        problem(writing.post("/v1/teams", json={"name": "x"}), 403, "insufficient_scope")
        assert [team["id"] for team in writing.get("/v1/teams").json()["items"]] == [ours]
        problem(writing.get(f"/v1/teams/{own['id']}"), 404, "not_found")
    problem(operator.delete(f"/v1/teams/{ours}"), 409, "own_team")


@pytest.fixture
def database_name(service: Service) -> str:
    """Something that no other test's team is called after."""
    return service.database.key.split("_")[1]
