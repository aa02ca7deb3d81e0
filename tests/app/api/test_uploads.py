"""Models and datasets on their way in: hashed as they come, sealed at the end, gone when nobody needs them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.app.api.conftest import Json, entry, problem, sha
from tests.conftest import Service


def test_an_upload_is_hashed_and_sealed(http: httpx.Client) -> None:
    data = b"weights" * 100_000
    made = http.post(
        "/v1/models", json={"name": "m", "files": [entry("a/model.safetensors", data), entry("config.json", b"")]}
    ).json()
    place = f"/v1/models/{made['id']}"
    assert made["state"] == "uploading"
    problem(http.put(f"{place}/files/a/model.safetensors", content=data[:-1] + b"!"), 422, "checksum_mismatch", "sha256")
    problem(http.put(f"{place}/files/a/model.safetensors", content=data + b"!"), 422, "size_mismatch", "size")
    problem(http.put(f"{place}/files/other", content=b""), 404, "not_found", "path")
    problem(http.post(f"{place}/complete"), 409, "incomplete_upload", "files")
    for _ in range(2):  # sending a file again is harmless
        assert http.put(f"{place}/files/a/model.safetensors", content=data).json()["sha256"] == sha(data)
    assert http.put(f"{place}/files/config.json", content=b"").status_code == 200
    done = http.post(f"{place}/complete")
    assert (done.status_code, done.json()["state"]) == (202, "validating")
    problem(http.put(f"{place}/files/config.json", content=b""), 409, "already_complete")


def test_a_chunked_upload_that_is_too_long_is_cut_off(http: httpx.Client, service: Service) -> None:
    made = http.post("/v1/models", json={"name": "m", "files": [entry("w.safetensors", b"12345")]}).json()["id"]

    def endless() -> Iterator[bytes]:
        for _ in range(3):
            yield b"xxx"

    problem(http.put(f"/v1/models/{made}/files/w.safetensors", content=endless()), 422, "size_mismatch")
    assert list((service.home / "storage").rglob(f"*{made}*/*")) == []
    assert list((service.home / "storage" / ".incoming").iterdir()) == []


HOSTILE = r"../x /x a//b a/./b .hidden a\b -rf a/-rf.json CON con.json a/NUL/b.json com1.txt LPT9 config.json. a./b.json"


def test_hostile_paths_are_refused_by_name(http: httpx.Client) -> None:
    for path in (*HOSTILE.split(), "a\nb", "x" * 201, "", "a\u202eb"):
        answer = http.post("/v1/models", json={"name": "m", "files": [{"path": path, "size": 1, "sha256": "0" * 64}]})
        problem(answer, 422, "invalid_request", "files.0.path")


def test_a_manifest_must_agree_with_itself(http: httpx.Client) -> None:
    twice = {"name": "m", "files": [entry("a.json", b""), entry("a.json", b"")]}
    problem(http.post("/v1/models", json=twice), 422, "invalid_request", "files")
    body = {"name": "d", "format": "jsonl", "splits": {"train": ["t.csv"], "test": ["missing"]}, "files": [entry("t.csv", b"")]}
    problem(http.post("/v1/datasets", json=body), 422, "invalid_request", "splits")
    problem(http.post("/v1/datasets", json={**body, "splits": {"dev": ["t.csv"]}}), 422, "invalid_request")


def test_no_two_files_are_one_where_case_does_not_count(http: httpx.Client) -> None:
    for cause, *names in (
        ("'config.json' and 'Config.JSON', which differ in case only", "config.json", "Config.JSON"),
        ("differ in case only", "A/x.json", "a/X.json"),
        ("'a.json' as a file and as a folder", "a.json", "a.json/b.json"),
        ("'A.json' as a file and as a folder", "a.json/b.json", "A.json"),
    ):
        answer = http.post("/v1/models", json={"name": "m", "files": [entry(name, b"") for name in names]})
        assert cause in problem(answer, 422, "invalid_request", "files")["cause"]


UNREAD = {
    ("models", "unsafe_checkpoint"): "pytorch_model.bin optimizer.PT modeling.py sub/kernel.so",
    ("models", "unexpected_file"): "w model.safetensors.part notes.pdf",
    ("datasets", "unsafe_checkpoint"): "rows.pkl load.py",
    ("datasets", "unexpected_file"): "model.safetensors rows.xls",
}


def test_a_file_that_nothing_reads_is_refused_before_it_is_sent(http: httpx.Client) -> None:
    for (noun, code), names in UNREAD.items():
        for name in names.split():
            body: Json = {"name": "m", "files": [entry("config.json", b""), entry(name, b"")]}
            if noun == "datasets":
                body |= {"format": "jsonl", "splits": {"train": ["config.json"]}}
            found = problem(http.post(f"/v1/{noun}", json=body), 422, code, name)
            assert name in found["cause"]
            assert "Leave it out" in found["remedy"] or "safe_serialization" in found["remedy"]


def test_what_the_engine_and_stock_tools_read_is_taken(http: httpx.Client) -> None:
    names = "config.json tokenizer.model vocab.txt merges.txt chat_template.jinja README.md LICENSE 1_Pooling/config.json"
    weights = "model-00001-of-00002.safetensors model.safetensors.index.json model.Q4_K_M.gguf onnx/model.onnx"
    files = [entry(name, b"") for name in f"{names} {weights}".split()]
    assert http.post("/v1/models", json={"name": "m", "files": files}).status_code == 201
    files = [entry(name, b"") for name in ("train.jsonl", "a.csv", "b.parquet", "c.txt", "README.md", "LICENSE")]
    body = {"name": "d", "format": "jsonl", "splits": {"train": ["train.jsonl"]}, "files": files}
    assert http.post("/v1/datasets", json=body).status_code == 201


@pytest.mark.parametrize("shared", ["sqlite"], indirect=True)
def test_a_gigabyte_goes_through_in_constant_memory(service: Service, http: httpx.Client) -> None:
    size, block = 1 << 30, bytes(1 << 20)
    digest = hashlib.sha256()
    for _ in range(size // len(block)):
        digest.update(block)
    body = {"name": "big", "files": [{"path": "w.safetensors", "size": size, "sha256": digest.hexdigest()}]}
    made = http.post("/v1/models", json=body).json()["id"]
    api = psutil.Process(service.processes["api"].pid)
    most = 0

    def blocks() -> Iterator[bytes]:
        nonlocal most
        for number in range(size // len(block)):
            if number % 16 == 0:
                most = max(most, api.memory_info().rss)
            yield block

    assert http.put(f"/v1/models/{made}/files/w.safetensors", content=blocks()).status_code == 200
    assert 0 < most < 150 << 20
    assert "torch" not in Path(f"/proc/{api.pid}/maps").read_text()
