"""The OpenAPI document, from which people generate clients. Each test goes over every operation, so later ones are in it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx

from app.accounts.auth import SAFE_METHODS
from app.api.dependencies import OnceDep, WriterDep
from app.api.openapi import MEDIA, DocumentedApi, ProblemDocument, problems
from app.api.routes.teams import TeamOut
from app.core import errors
from app.core.patterns import WORDS
from app.core.schemas import LABEL_KEY, TEXT, Page
from app.main import app
from tests.app.api.conftest import Json
from tests.app.api.test_keys import needs
from tests.support import documented

DOCUMENT = app.openapi()
FREE_FORM = {"/v1/recipes/check"}
"""Bodies without a form of their own: a recipe may be given in part."""


def operations() -> Iterator[tuple[str, str, Json]]:
    for path, ways in DOCUMENT["paths"].items():
        for method, way in ways.items():
            yield method.upper(), path, way


def parts(schema: Any) -> Iterator[Json]:
    """Each object of a schema, however deep."""
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for below in schema:
            yield from parts(below)


def responses(way: Json) -> dict[str, Json]:
    shared, found = DOCUMENT["components"]["responses"], way["responses"].items()
    return {status: shared[said["$ref"].rsplit("/", 1)[1]] if "$ref" in said else said for status, said in found}


def test_each_operation_has_a_name_of_its_own() -> None:
    ways = {(method, path): way for method, path, way in operations()}
    assert {(method, "/v1/artifacts/{artifact_id}/files/{path}") for method in ("GET", "HEAD")} <= set(ways)
    names = Counter(way["operationId"] for way in ways.values())
    assert [name for name, count in names.items() if count > 1] == []
    assert {"jobs_create", "models_upload", "artifacts_download"} <= set(names)


def test_every_reference_leads_somewhere() -> None:
    found = [part["$ref"] for part in parts(DOCUMENT) if isinstance(part.get("$ref"), str)]
    assert len(found) > 500
    for reference in set(found):
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            assert step in place, reference
            place = place[step]


def test_every_pattern_has_words_for_whoever_misses_it() -> None:
    found = {part["pattern"] for part in parts(DOCUMENT) if isinstance(part.get("pattern"), str)} | {LABEL_KEY, TEXT}
    assert len(found) > 10
    assert found - set(WORDS) == set()


def test_every_refusal_is_a_problem_with_codes_and_the_headers_that_a_program_needs() -> None:
    codes = {kind.code: kind.status for kind in errors.ALL_PROBLEMS}
    for method, path, way in operations():
        for status, said in responses(way).items():
            assert {"X-Request-Id"} <= set(said["headers"]), (method, path, status)
            if status < "400":
                continue
            assert said["x-problems"], (method, path, status)
            assert {codes.get(code, 422) for code in said["x-problems"]} == {int(status)}, (method, path, status)
            if method != "HEAD":
                assert said["content"][MEDIA]["schema"] == {"$ref": "#/components/schemas/Problem"}, (method, path, status)
            assert ("Retry-After" in said["headers"]) is (status in ("429", "503")), (method, path, status)
            assert ("WWW-Authenticate" in said["headers"]) is (status == "401"), (method, path, status)
    assert "HTTPValidationError" not in DOCUMENT["components"]["schemas"]


def test_what_a_route_needs_says_how_it_refuses() -> None:
    declared = {(method, path.replace(":path", "")): needed for (method, path), needed in needs().items()}
    assert len(declared) > 40
    for method, path, way in operations():
        said = responses(way)
        needed = declared.get((method, path))
        assert ("401" in said) is (needed is not None or path == "/metrics"), (method, path)
        assert ("429" in said) is (not path.startswith("/healthz/")), (method, path)
        assert {"400", "408", "413", "422", "500", "503"} <= set(said), (method, path)
        if "{" in path:
            assert "not_found" in said["404"]["x-problems"], (method, path)
        if needed is not None and not all(needed.admits(scope) for scope in ("read", "device")):
            assert "insufficient_scope" in said["403"]["x-problems"], (method, path)
        if needed is not None and method not in SAFE_METHODS:
            assert "csrf_failed" in said["403"]["x-problems"], (method, path)
        if any(one["name"] == "idempotency-key" for one in way.get("parameters", ())):
            assert "idempotency_key_reused" in said["422"]["x-problems"], (method, path)
            assert "deleted" in said["410"]["x-problems"], (method, path)
            assert any("Idempotency-Replayed" in one["headers"] for one in said.values()), (method, path)


def test_every_answer_has_a_content_type_and_a_form() -> None:
    empty: list[Any] = [{}, {"type": "object"}]
    for method, path, way in operations():
        for status, said in responses(way).items():
            if method == "HEAD" or status in ("204", "304", "307"):
                assert "content" not in said, (method, path, status)
                continue
            assert said["content"], (method, path, status)
            for kind, content in said["content"].items():
                assert content["schema"] not in empty, (method, path, status, kind)
                assert "additionalProperties" not in content["schema"], (method, path, status, kind)
    schemas = DOCUMENT["components"]["schemas"].items()
    lists = [(name, one) for name, schema in schemas for one in parts(schema) if one.get("type") == "array"]
    assert [name for name, one in lists if not one.get("items", one.get("prefixItems"))] == []


def test_every_list_says_of_what_it_is() -> None:
    pages = 0
    for method, path, way in operations():
        if not any(one["name"] == "page_token" for one in way.get("parameters", ())):
            continue
        ok = responses(way)["200"]
        schema = DOCUMENT["components"]["schemas"][ok["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]]
        assert "$ref" in schema["properties"]["items"]["items"], (method, path)
        assert "Link" in ok["headers"], (method, path)
        pages += 1
    assert pages >= 8


def test_bodies_and_other_forms_of_an_answer_are_declared() -> None:
    ways = {(method, path): way for method, path, way in operations()}
    for (method, path), way in ways.items():
        if "requestBody" in way:
            for kind, content in way["requestBody"]["content"].items():
                assert content["schema"] != {}, (method, path, kind)
                assert path in FREE_FORM or content["schema"].get("additionalProperties") is not True, (method, path)
        if method in ("PUT", "PATCH") and "/files/" in path:
            schema = way["requestBody"]["content"]["application/octet-stream"]["schema"]
            assert schema == {"type": "string", "format": "binary"}, (method, path)
        assert not [one for one in way.get("parameters", ()) if one["name"] in ("accept", "authorization", "content-type")]
        assert not [one for one in way.get("parameters", ()) if {"type": "null"} in one["schema"].get("anyOf", ())]
    kinds = {way: set(responses(ways[way]).get("200", {}).get("content", ())) for way in ways}
    streams = {path for (_, path), found in kinds.items() if "text/event-stream" in found}
    assert streams == {"/v1/jobs", "/v1/jobs/{job_id}/events"}
    assert {path for (_, path), found in kinds.items() if "text/csv" in found} == {"/v1/compare", "/v1/audit"}
    file = ("GET", "/v1/artifacts/{artifact_id}/files/{path}")
    assert kinds[file] == {"application/octet-stream"}
    said = responses(ways[file])
    assert {"200", "206", "304", "307", "416"} <= set(said)
    assert {"ETag", "Repr-Digest", "Content-Disposition", "Content-Range"} <= set(said["206"]["headers"])
    assert "Location" in said["307"]["headers"]
    assert {"text/html", MEDIA} <= set(responses(ways["GET", "/share/{token}"])["404"]["content"])
    assert set(responses(ways["GET", "/healthz/ready"])["503"]["content"]) == {"application/json", MEDIA}


def test_a_problem_that_is_sent_has_the_form_that_is_declared() -> None:
    quota = {"name": "rate_key", "limit": 1, "used": 1, "frees": "soon", "frees_at": None}
    problem = errors.RateLimited("too many", facts={"quota": quota})
    for one in (problem, errors.NotFound("none", param="job")):
        sent = ProblemDocument.model_validate_json(errors.problem_body(one, "req_1")).model_dump(exclude_unset=True)
        assert sent.keys() == ProblemDocument.model_fields.keys() - (set() if one is problem else {"quota"})


def test_a_later_route_is_documented_by_what_it_declares() -> None:
    made = DocumentedApi()

    @made.post("/later/{one}", responses=problems(errors.InUse, errors.ReportNotReady), tags=["later"])
    def create(one: str, caller: WriterDep, once: OnceDep) -> Page[TeamOut]:
        raise NotImplementedError

    document = made.openapi()
    assert made.openapi() is document
    said = document["paths"]["/later/{one}"]["post"]["responses"]
    shared, refusals = document["components"]["responses"], {name: said[name]["$ref"] for name in said if name >= "400"}
    codes = {status: shared[place.rsplit("/", 1)[1]]["x-problems"] for status, place in refusals.items()}
    assert codes["401"] == ["unauthorized"]
    assert codes["403"] == ["insufficient_scope", "csrf_failed", "read_only_key"]
    assert codes["404"] == ["not_found", "report_not_ready"]
    assert (codes["409"], codes["410"]) == (["in_use"], ["deleted"])
    assert codes["422"] == ["invalid_request", "idempotency_key_reused"]
    assert {"413", "429", "500", "503", "507"} <= set(codes)


def _answered(status: int, body: Json | None = None, path: str = "/v1/jobs/job_1") -> str | None:
    """Hold an answer to a DELETE against the document, as every test of the API does."""
    headers = {"x-request-id": "req_1"} | ({"content-type": MEDIA} if body else {})
    sent = httpx.Request("DELETE", f"http://lathe{path}")
    return documented.difference(httpx.Response(status, headers=headers, json=body, request=sent))


def test_an_answer_that_the_document_lacks_is_noticed() -> None:
    documented.know(DOCUMENT)
    assert _answered(204) is None
    assert _answered(409, {"code": "wrong_state"}) is None
    assert _answered(409, {"code": "in_use"}) == "undocumented problem in_use"
    assert _answered(401, {"code": "unauthorized"}) == "status 401 without WWW-Authenticate"
    assert _answered(418) == "undocumented status 418"
    assert _answered(204, {"code": "x"}) == f"undocumented {MEDIA} with status 204"
    assert _answered(204, path="/v1/queue") == "undocumented method"


def test_no_object_is_a_default_beside_a_reference() -> None:
    """Generators of clients take none, and drop the whole schema: it is said in words."""
    recipe = DOCUMENT["components"]["schemas"]["Recipe"]["properties"]
    assert "default" not in recipe["quantize"]
    assert '"scheme": "dynamic-int8"' in recipe["quantize"]["description"]
