"""Requests that are too large, malformed or beyond reason, whatever they ask for; and that the API carries no torch."""

import base64
import contextlib
import subprocess
import sys

import httpx

from app.api import ranges
from tests.app.api.conftest import Json, entry, problem
from tests.conftest import ROOT


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
    problem(http.get("/v1/nowhere"), 404, "not_found")
    problem(http.patch("/v1/jobs"), 405, "method_not_allowed")


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
