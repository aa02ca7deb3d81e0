"""Models and datasets on their way in: hashed as they come, sealed at the end, gone when nobody needs them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.app.api.conftest import entry, problem, sha
from tests.conftest import Service


def test_an_upload_is_hashed_and_sealed(http: httpx.Client) -> None:
    data = b"weights" * 100_000
    made = http.post("/v1/models", json={"name": "m", "files": [entry("a/model.safetensors", data), entry("c", b"")]}).json()
    place = f"/v1/models/{made['id']}"
    assert made["state"] == "uploading"
    problem(http.put(f"{place}/files/a/model.safetensors", content=data[:-1] + b"!"), 422, "checksum_mismatch", "sha256")
    problem(http.put(f"{place}/files/a/model.safetensors", content=data + b"!"), 422, "size_mismatch", "size")
    problem(http.put(f"{place}/files/other", content=b""), 404, "not_found", "path")
    problem(http.post(f"{place}/complete"), 409, "incomplete_upload", "files")
    for _ in range(2):  # sending a file again is harmless
        assert http.put(f"{place}/files/a/model.safetensors", content=data).json()["sha256"] == sha(data)
    assert http.put(f"{place}/files/c", content=b"").status_code == 200
    done = http.post(f"{place}/complete")
    assert (done.status_code, done.json()["state"]) == (202, "validating")
    problem(http.put(f"{place}/files/c", content=b""), 409, "already_complete")


def test_a_chunked_upload_that_is_too_long_is_cut_off(http: httpx.Client, service: Service) -> None:
    made = http.post("/v1/models", json={"name": "m", "files": [entry("w", b"12345")]}).json()["id"]

    def endless() -> Iterator[bytes]:
        for _ in range(3):
            yield b"xxx"

    problem(http.put(f"/v1/models/{made}/files/w", content=endless()), 422, "size_mismatch")
    assert list((service.home / "storage").rglob(f"*{made}*/*")) == []
    assert list((service.home / "storage" / ".incoming").iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/./b", ".hidden", "a\\b", "a\nb", "x" * 201, ""])
def test_hostile_paths_are_refused_by_name(path: str, http: httpx.Client) -> None:
    answer = http.post("/v1/models", json={"name": "m", "files": [{"path": path, "size": 1, "sha256": "0" * 64}]})
    problem(answer, 422, "invalid_request", "files.0.path")


def test_a_manifest_must_agree_with_itself(http: httpx.Client) -> None:
    twice = {"name": "m", "files": [entry("a", b""), entry("a", b"")]}
    problem(http.post("/v1/models", json=twice), 422, "invalid_request", "files")
    body = {"name": "d", "format": "jsonl", "splits": {"train": ["t"], "test": ["missing"]}, "files": [entry("t", b"")]}
    problem(http.post("/v1/datasets", json=body), 422, "invalid_request", "splits")
    problem(http.post("/v1/datasets", json={**body, "splits": {"dev": ["t"]}}), 422, "invalid_request")


def test_what_a_job_needs_cannot_be_deleted(http: httpx.Client, request_body: dict[str, Any]) -> None:
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    base = request_body["models"]["base"]
    assert job in problem(http.delete(f"/v1/models/{base}"), 409, "in_use")["cause"]
    http.post(f"/v1/jobs/{job}/cancel")
    assert http.delete(f"/v1/models/{base}").status_code == 204
    problem(http.get(f"/v1/models/{base}"), 404, "not_found")


@pytest.mark.parametrize("shared", ["sqlite"], indirect=True)
def test_a_gigabyte_goes_through_in_constant_memory(service: Service, http: httpx.Client) -> None:
    size, block = 1 << 30, bytes(1 << 20)
    digest = hashlib.sha256()
    for _ in range(size // len(block)):
        digest.update(block)
    body = {"name": "big", "files": [{"path": "w", "size": size, "sha256": digest.hexdigest()}]}
    made = http.post("/v1/models", json=body).json()["id"]
    api = psutil.Process(service.processes["api"].pid)
    most = 0

    def blocks() -> Iterator[bytes]:
        nonlocal most
        for number in range(size // len(block)):
            if number % 16 == 0:
                most = max(most, api.memory_info().rss)
            yield block

    assert http.put(f"/v1/models/{made}/files/w", content=blocks()).status_code == 200
    assert 0 < most < 150 << 20
    assert "torch" not in Path(f"/proc/{api.pid}/maps").read_text()
