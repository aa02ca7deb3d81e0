"""Requests that are too large, malformed or beyond reason, whatever they ask for; and that the API carries no torch."""

import base64
import contextlib
import subprocess
import sys

import httpx

from app.api import ranges
from tests.app.api.conftest import Json, entry, problem
from tests.conftest import ROOT
from tests.support.saying import lacks, says


def test_oversized_and_malformed_bodies(http: httpx.Client) -> None:
    problem(http.post("/v1/models", content=b"x" * (2 << 20), headers={"Content-Type": "application/json"}), 413, "too_large")
    chunks = (b" " * (1 << 20) for _ in range(2))
    problem(http.post("/v1/models", content=chunks, headers={"Content-Type": "application/json"}), 413, "too_large")
    problem(http.post("/v1/models", content=b"{", headers={"Content-Type": "application/json"}), 422, "invalid_request")
    for method in ("PUT", "PATCH"):  # a file's bytes have bounds of their own: these are none
        chunks = (b" " * (1 << 20) for _ in range(2))
        sent = {"content": chunks, "headers": {"Content-Type": "application/json", "Authorization": "Bearer nobody"}}
        path = "/v1/teams/x" if method == "PATCH" else "/v1/jobs"
        problem(http.request(method, path, **sent), *((413, "too_large") if method == "PATCH" else (405, "method_not_allowed")))
    missing = problem(http.get("/v1/nowhere"), 404, "not_found")
    assert missing["cause"] == "there is no path /v1/nowhere"
    says(missing["remedy"], "/docs", "/openapi.json")
    refused = http.patch("/v1/jobs")
    assert problem(refused, 405, "method_not_allowed")["cause"] == "/v1/jobs supports GET, POST, not PATCH"
    assert refused.headers["allow"] == "GET, POST"


def test_a_body_that_cannot_be_read_is_described_in_words(http: httpx.Client) -> None:
    of_json = {"Content-Type": "application/json"}
    for sent, cause in (
        ({"content": b'{"name": }', "headers": of_json}, "the body is not JSON: Expecting value, at character 9"),
        ({"content": b'{"name": "m"}'}, "the body was not sent as JSON"),
        ({"content": b'["m"]', "headers": of_json}, "the body was no object of JSON"),
        ({}, "the request has no body"),
    ):
        said = problem(http.post("/v1/models", **sent), 422, "invalid_request")
        assert (said["cause"], said["param"]) == (cause, None)
        says(said["remedy"], "Send a JSON object", "`Content-Type: application/json`")
    files = [entry("../config.json", b"{}"), {**entry("a?", b""), "sha256": "0"}]
    said = problem(http.post("/v1/models", json={"name": "m", "files": files}), 422, "invalid_request", "files.0.path")
    lacks(said["cause"], "Value error", "pattern", "^")
    says(said["cause"], 'files.1.path: it may hold no control characters, and none of \\ < > : " | ? *')
    says(said["cause"], "files.1.sha256: it is not a SHA-256 of 64 lower-case hexadecimal digits")


def test_a_query_parameter_that_the_path_lacks_is_refused(http: httpx.Client, browser: httpx.Client) -> None:
    said = problem(http.get("/v1/jobs?stat=failed&page_size=5"), 422, "invalid_request", "stat")
    says(said["cause"], "stat: there is no such query parameter", "this path has page_size, page_token, state, label")
    problem(http.post("/v1/jobs?validate=true", json={}), 422, "invalid_request", "validate")
    assert http.get("/v1/jobs?state=failed&state=queued&page_size=5").status_code == 200
    assert browser.get("/jobs?utm_source=chat").status_code == 200  # a link to a page may carry what another program added


def test_a_browser_at_a_path_that_does_not_exist_gets_a_page(http: httpx.Client) -> None:
    answer = http.get("/jbos", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    says(answer.text, "there is no path /jbos", "What to do:")
    problem(http.get("/jbos"), 404, "not_found")


def test_a_nul_is_refused_wherever_it_stands(http: httpx.Client, request_body: Json) -> None:
    for path in ("/v1/jobs/%00", "/v1/models/%00", "/v1/artifacts/%00/files/x", "/v1/jobs?model=%00", "/v1/jobs?label=a:%00"):
        problem(http.get(path), 422, "invalid_request")
    problem(http.get("/v1/jobs?page_token=AA"), 422, "invalid_request", "page_token")
    files = [entry("a", b"1")]
    data = {"name": "d", "format": "jsonl", "columns": {"text": "\0"}, "splits": {"train": ["a"]}, "files": files}
    for path, body in (
        ("/v1/models", {"name": "a\0", "files": files}),
        ("/v1/datasets", data),
        ("/v1/keys", {"name": "\0"}),
        ("/v1/jobs", {**request_body, "name": "\0"}),
        ("/v1/jobs", {**request_body, "labels": {"a": "\0"}}),
        ("/v1/jobs", {**request_body, "labels": {"\0": "a"}}),
        ("/v1/jobs", {**request_body, "models": {"base": "\0"}}),
    ):
        problem(http.post(path, json=body), 422, "invalid_request")


def test_numbers_beyond_reason_are_no_bug_of_ours(http: httpx.Client, request_body: Json) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    problem(http.get(f"/v1/jobs/{job}/events?after={2**70}"), 422, "invalid_request", "after")
    far = base64.urlsafe_b64encode(b"9" * 30).decode()
    problem(http.get(f"/v1/jobs/{job}/events?page_token={far}"), 422, "invalid_request", "page_token")
    live = {"Accept": "text/event-stream", "Last-Event-ID": str(2**70)}
    problem(http.get(f"/v1/jobs/{job}/events", headers=live), 422, "invalid_request")
    for wait in ("²".encode("latin-1"), b"9" * 400):
        with contextlib.suppress(httpx.ReadTimeout):
            assert http.get(f"/v1/jobs/{job}", headers={"Prefer": b"wait=" + wait}, timeout=0.5).status_code == 200
    assert ranges.parse_range("bytes=" + "9" * 5000 + "-", None, '"a"', 10) is None


def test_the_api_never_imports_torch() -> None:
    code = "import sys, app.main; print(sorted({'torch','transformers','onnxruntime','numpy','workers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
