"""Who gets in where: teams × scopes × every route × method, made from the application's routes, so that later routes enter it.

One team owns one object of each kind. Every caller asks for it by every way; what a way needs says what must be answered, and
the owner's rows are the same when all strangers have asked. A route with a path parameter or a body that is not known here
fails the test until OBJECTS or BODIES names one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match

from app.accounts.auth import SAFE_METHODS, Requires, find_requirement
from app.api.openapi import iterate_routes
from app.main import app
from app.pages.dashboard.views import get_visitor
from app.store.models import ADMIN, DEVICE, READ, WRITE
from tests.app.api.conftest import MOMENT, Json, new_team, sql
from tests.app.api.owner import DATA, Owner, team_of
from tests.conftest import Service, over_sqlite

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
SCOPES = (READ, WRITE, ADMIN, DEVICE)
OPEN = {"/", "/docs", "/docs/errors", "/sign-in", "/sign-out", "/static/{wanted}/{name:path}", "/share/{token}"}
OPEN |= {"/healthz/live", "/healthz/ready"}
"""What anybody may ask for: each answers the same whatever key it is shown."""
FINER = {("DELETE", "/v1/keys/{key_id}"): Requires(ADMIN)}
"""Ways whose handler refuses more than their declaration does: only admins revoke the keys of others."""
EVERY_TEAM = {"/v1/teams", "/v1/teams/{team_id}", "/keys"}
"""Where admins of the team that runs the service see other teams."""
OF_NO_TEAM = {"/v1/device-tables/{table_id}"}
"""Objects that every team may read."""
OWN_WORDS = {"/v1/audit"}
"""Lists that repeat what the team itself named in its requests, though it was refused."""
PAGE = {"files": [{"path": "later.json", "size": 0, "sha256": "0" * 64}]}
BODIES: dict[tuple[str, str], Any] = {
    **{("POST", f"/v1/{noun}/{{identifier}}/files"): PAGE for noun in ("models", "datasets")},
    ("POST", "/v1/jobs/{job_id}/try"): {"text": "good"},
    ("POST", "/v1/jobs/{job_id}/targets"): {"target_params": 0.5},
    ("POST", "/v1/artifacts/{artifact_id}/profiles"): {"device": "{device_id}"},
    ("POST", "/v1/profiles/{profile_id}/result"): {"fence": 1, "failure": {"code": "failed", "detail": "", "remedy": ""}},
    ("POST", "/v1/jobs"): {"models": {"base": "{base}"}, "datasets": ["{data}"], "recipe": "quick"},
}
"""Where the least body that the document allows is refused by a rule that comes before the object is looked for."""
NAMES_IN_BODY = {("POST", "/v1/jobs")}
"""Ways that name the owner's objects in their body."""
Way = tuple[str, str]


@dataclass(frozen=True)
class Caller:
    """Somebody who asks: a key that lets in, with its scope and team, or one that does not."""

    name: str
    key: str | None
    scope: str | None = None
    own: bool = False
    operator: bool = False

    def expected(self, way: Way, needed: Requires) -> tuple[int, str] | None:
        """Return status and code that a way answers with; None where the caller is let in."""
        if self.scope is None:
            return 401, "unauthorized"
        reader = self.scope == READ and way[0] not in SAFE_METHODS
        if not needed.admits(self.scope, operator=self.operator):
            return 403, "read_only_key" if reader else "insufficient_scope"
        if (finer := FINER.get(way)) and not finer.admits(self.scope, operator=self.operator):
            return 403, "insufficient_scope"
        sees_all = self.operator and self.scope == ADMIN and way[1] in EVERY_TEAM
        names = ("{" in way[1] and way[1] not in OF_NO_TEAM) or way in NAMES_IN_BODY
        return (404, "not_found") if names and not self.own and not sees_all else None


def declared() -> dict[Way, APIRoute]:
    return {(method, route.path): route for route in iterate_routes(app.routes) for method in route.methods or ()}


def taken(address: str) -> set[str]:
    """Return the methods that any route of an address takes."""
    scope = {"type": "http", "path": address, "root_path": "", "headers": []}
    routes = app.router.routes
    return {one for one in METHODS if any(route.matches({**scope, "method": one})[0] is Match.FULL for route in routes)}


def least(schema: Json) -> Any:
    """Return the least value that a schema of the document allows, as far as its types say."""
    document = app.openapi()
    if "$ref" in schema:
        return least(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in schema:
        return least(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: least(schema["properties"][name]) for name in schema.get("required", ())}
    if kind == "array":
        return [least(schema["items"]) for _ in range(schema.get("minItems", 0))]
    return {"string": "x" * schema.get("minLength", 1), "integer": schema.get("minimum", 0), "boolean": False}.get(str(kind))


def filled(body: Any, objects: dict[str, str]) -> Any:
    """Put the owner's objects where a body names them."""
    if isinstance(body, dict):
        return {name: filled(below, objects) for name, below in body.items()}
    if isinstance(body, list):
        return [filled(below, objects) for below in body]
    return body.format(**objects) if isinstance(body, str) else body


def sent(way: Way, objects: dict[str, str]) -> Json:
    operation = app.openapi()["paths"].get(way[1].replace(":path", ""), {}).get(way[0].lower(), {})
    needed = [one for one in operation.get("parameters", ()) if one["required"] and one["in"] == "header"]
    found: Json = {"headers": {one["name"]: str(least(one["schema"])) for one in needed}}
    content = operation.get("requestBody", {}).get("content", {})
    if "application/octet-stream" in content:
        return {**found, "content": DATA}
    if "application/json" in content:
        return {**found, "json": filled(BODIES.get(way), objects) or least(content["application/json"]["schema"])}
    return found


@dataclass
class Matrix:
    """All callers and all ways, and what was not as it must be."""

    owner: Owner
    callers: list[Caller]
    wrong: list[str] = field(default_factory=list)
    asked: int = 0

    def ask(self, http: httpx.Client, caller: Caller, way: Way) -> httpx.Response:
        self.asked += 1
        request = sent(way, self.owner.objects)
        if caller.key is not None:
            request["headers"]["Authorization"] = f"Bearer {caller.key}"
        return http.request(way[0], self.owner.address(way[1]), **request)

    def note(self, caller: Caller, way: Way, answer: httpx.Response, expected: object) -> None:
        """Keep what is wrong, all of it, for one message at the end."""
        self.wrong.append(f"{caller.name}: {way[0]} {way[1]} → {answer.status_code} {answer.text[:150]}; expected {expected}")

    def hold(self, http: httpx.Client, caller: Caller, way: Way, needed: Requires) -> None:
        """Ask by a way, and hold the answer against what the way needs."""
        answer, expected = self.ask(http, caller, way), caller.expected(way, needed)
        if expected is None:
            if answer.status_code in (401, 403) or answer.status_code >= 500:
                self.note(caller, way, answer, "to be let in")
            seen = [one for one in self.owner.objects.values() if len(one) > 12 and one in answer.text]
            told = way[1] in OWN_WORDS or (caller.operator and way[1] in EVERY_TEAM)
            if seen and not caller.own and not told:
                self.note(caller, way, answer, f"nothing of {seen}")
        elif (answer.status_code, self._code(answer, expected[1])) != expected:
            self.note(caller, way, answer, expected)

    @staticmethod
    def _code(answer: httpx.Response, of_head: str) -> Any:
        """Return a problem's code. An answer to HEAD has no body, so that its status must do."""
        if answer.request.method == "HEAD":
            return of_head
        return answer.json()["code"] if answer.headers.get("content-type") == "application/problem+json" else None


@pytest.fixture(scope="module")
def served(templates: dict[str, str], valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One API for all of it. Who is let in is decided above the database, so one kind will do."""
    with over_sqlite(templates, valkey, tmp_path_factory.mktemp("matrix")) as made:
        yield made


def keys_of(http: httpx.Client, name: str, *, own: bool = False, operator: bool = False) -> list[Caller]:
    made = {scope: http.post("/v1/keys", json={"name": scope, "scope": scope}).json()["key"] for scope in SCOPES}
    return [Caller(f"{name} {scope}", key, scope, own, operator) for scope, key in made.items()]


def strangers(service: Service, http: httpx.Client) -> list[Caller]:
    """Nobody, a guess, and keys of the owner's own team that let in no more."""
    wrong, revoked, expired = (http.post("/v1/keys", json={"name": "k", "scope": ADMIN}).json() for _ in range(3))
    http.delete(f"/v1/keys/{revoked['id']}")
    sql(service, "UPDATE api_keys SET expires_at = %s WHERE id = %s", MOMENT, expired["id"])
    guessed = wrong["key"][:-1] + ("a" if wrong["key"][-1] != "a" else "b")
    found = {"no key": None, "nonsense": "nonsense", "unknown": f"lathe_{'0' * 10}_{'s' * 43}", "wrong secret": guessed}
    return [Caller(name, key) for name, key in {**found, "revoked": revoked["key"], "expired": expired["key"]}.items()]


@pytest.fixture(scope="module")
def matrix(served: Service) -> Iterator[Matrix]:
    """A team with objects, another team, the team that runs the service, and all their callers."""
    ours, theirs = (replace(served, database=replace(served.database, key=new_team(served))) for _ in range(2))
    with ours.client() as http, theirs.client() as other, served.client() as first:
        owner = Owner(ours, http, team_of(http))
        owner.make()
        others = [*keys_of(other, "another team's"), *keys_of(first, "operator's", operator=True)]
        yield Matrix(owner, [*strangers(ours, http), *others, *keys_of(http, "own", own=True)])


def needed_ways() -> dict[Way, Requires]:
    """Ways that need a key, with what they need; those that end most come last."""
    found = {way: find_requirement(route.dependant) for way, route in declared().items()}
    order = sorted(found, key=lambda way: (way[0] == "DELETE", way[1] in EVERY_TEAM, -len(way[1])))
    return {way: needed for way in order if (needed := found[way]) is not None}


def test_every_page_wants_a_sign_in_and_shows_no_other_team_s_objects(matrix: Matrix) -> None:
    owner, wrong = matrix.owner, []
    known = declared().items()
    ways = {way: route for way, route in known if find_requirement(route.dependant) is None and way[1] != "/metrics"}
    pages = {way for way, route in ways.items() if any(one.call is get_visitor for one in route.dependant.dependencies)}
    assert {path for _, path in set(ways) - pages} == OPEN
    assert len(pages) > 7
    assert all(method == "GET" for method, _ in pages)
    admins = [caller for caller in matrix.callers if caller.scope == ADMIN and not caller.own]
    with httpx.Client(base_url=owner.service.url, timeout=70) as http:
        for caller in matrix.callers:
            for way in ways:
                plain = matrix.ask(http, Caller("nobody", None), way)
                answer = matrix.ask(http, caller, way)
                if answer.status_code != plain.status_code or (way in pages and answer.status_code != 303):
                    matrix.note(caller, way, answer, f"{plain.status_code} for everybody, 303 of a page")
    for caller in admins:
        with httpx.Client(base_url=owner.service.url, timeout=70) as browser:
            assert browser.post("/sign-in", data={"key": caller.key}).status_code == 303
            for _, path in pages:
                answer = browser.get(owner.address(path))
                shown = [one for one in owner.objects.values() if len(one) > 12 and one in answer.text]
                if caller.operator and path in EVERY_TEAM:
                    shown.remove(owner.team)
                if "{" in path:
                    part = browser.get(owner.address(path), headers={"HX-Request": "true"}, params={"part": "now"})
                    assert part.status_code == 404, path
                if answer.status_code != (404 if "{" in path else 200) or (shown and answer.status_code == 200):
                    wrong.append(f"{caller.name}: {path} → {answer.status_code}, {shown}")
    assert matrix.wrong == wrong == []


def test_figures_of_all_teams_are_for_those_who_run_the_service(matrix: Matrix) -> None:
    with httpx.Client(base_url=matrix.owner.service.url, timeout=70) as http:
        for caller in matrix.callers:
            let_in = caller.operator and caller.scope == ADMIN
            assert matrix.ask(http, caller, ("GET", "/metrics")).status_code == (200 if let_in else 401), caller.name


def test_a_method_that_an_address_lacks_is_refused_to_all_alike(matrix: Matrix) -> None:
    paths = {path for _, path in declared()}
    assert len(paths) > 50
    # The router answers before anybody looks at a key: nobody and an admin of each team will do.
    callers = [caller for caller in matrix.callers if caller.key is None or caller.scope == ADMIN]
    wrong = []
    with httpx.Client(base_url=matrix.owner.service.url, timeout=70) as http:
        for path in paths:
            allowed = taken(matrix.owner.address(path))
            for method in set(METHODS) - allowed:
                for caller in callers:
                    answer = matrix.ask(http, caller, (method, path))
                    known = set(answer.headers.get("allow", "").replace(" ", "").split(","))
                    if (answer.status_code, known) != (405, allowed):
                        wrong.append(f"{caller.name}: {method} {path} → {answer.status_code}, Allow {known}")
    assert wrong == []


def test_nothing_is_served_that_the_matrix_does_not_know() -> None:
    plain = {getattr(route, "path", "") for route in app.routes if not isinstance(route, APIRoute)} - {""}
    assert plain == {"/openapi.json"}
    assert {way for way, needed in needed_ways().items() if not way[1].startswith("/v1/")} == set()


# The last: it ends the objects, and the team.
def test_whoever_asks_gets_what_the_key_s_scope_and_team_allow_and_no_more(matrix: Matrix) -> None:
    ways, owner = needed_ways(), matrix.owner
    assert len(ways) > 45
    by_operators = {way for way in ways if way[1] in EVERY_TEAM and way[0] not in SAFE_METHODS}
    with httpx.Client(base_url=owner.service.url, timeout=70) as http:
        admin = next(caller for caller in matrix.callers if caller.own and caller.scope == ADMIN)
        for way in ways:  # each object is really there
            if way[0] == "GET" and "{" in way[1] and matrix.ask(http, admin, way).status_code != 200:
                matrix.wrong.append(f"the owner finds nothing at {way[1]}")
        before = owner.rows()
        assert {"models", "datasets", "jobs", "files", "artifacts", "tries", "share_links", "api_keys", "teams"} <= set(before)
        for caller in matrix.callers:
            for way, needed in ways.items():
                if not caller.own and not (caller.operator and way in by_operators):
                    matrix.hold(http, caller, way, needed)
        assert owner.rows() == before
        # What one scope ends was there for those that may not end it.
        for way, needed in ways.items():
            for caller in sorted(matrix.callers, key=lambda one: (one.scope in (WRITE, ADMIN), one.operator)):
                if caller.own or (caller.operator and way in by_operators):
                    matrix.hold(http, caller, way, needed)
    assert matrix.wrong == []
    assert matrix.asked > len(matrix.callers) * len(ways)
