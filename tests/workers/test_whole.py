"""The whole path with real processes: API, Valkey, Celery workers, keeper and engine, on both databases."""

import hashlib
import json
import pickle
import random
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import psutil
import pytest
from tokenizers import Tokenizer

from app.core.settings import Settings
from app.store.broker import JOBS, WakeUpSender
from tests.conftest import Service, wait_for
from tests.support import examples
from tests.support.examples import TINY_RECIPE, jsonl, send, send_data, send_model, tiny_splits
from tests.support.processes import command_of, lives

PATIENCE = 900.0
ONCE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what does not depend on the database, such as what a file holds."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return examples.tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def submit(http: httpx.Client, tiny: Path, **recipe: Any) -> str:
    model, data = send_model(http, tiny), send_data(http, tiny_splits())
    assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": {**TINY_RECIPE, **recipe}}
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(http: httpx.Client, job_id: str) -> dict[str, Any]:
    return http.get(f"/v1/jobs/{job_id}").json()


def finished(http: httpx.Client, job_id: str) -> dict[str, Any]:
    """Wait as a client does, by requests that are answered when something changed: asking costs what the job could have."""

    def over() -> dict[str, Any] | None:
        found: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"}).json()
        return found if found["state"] in {"succeeded", "failed", "cancelled"} else None

    return wait_for(over, PATIENCE)


def events(http: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    return list(http.get(f"/v1/jobs/{job_id}/events?page_size=1000").json()["items"])


def download(http: httpx.Client, artifact: dict[str, Any], folder: Path) -> Path:
    for file in artifact["files"]:
        answer = http.get(f"/v1/artifacts/{artifact['id']}/files/{file['path']}")
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"] == answer.headers["etag"].strip('"')
        (folder / file["path"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / file["path"]).write_bytes(answer.content)
    return folder


def stock_labels(folder: Path, texts: list[str]) -> list[str]:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    found = []
    for text in texts:
        encoded = tokenizer.encode(text)
        feed = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
        logits = session.run(None, {name: np.array([value], dtype=np.int64) for name, value in feed.items()})[0]
        found.append(labels[str(int(logits[0].argmax()))])
    return found


def stock_accuracy(folder: Path, rows: list[dict[str, str]]) -> float:
    found = stock_labels(folder, [row["text"] for row in rows])
    return sum(label == row["label"] for label, row in zip(found, rows, strict=True)) / len(rows)


def answer_both(http: httpx.Client, job_id: str, rows: list[dict[str, str]], opened: Path) -> None:
    """Both models answer a row of the test split; what they say, and what the row expects, are told side by side."""
    tried = http.post(f"/v1/jobs/{job_id}/try", json={"row": 3}, headers={"Prefer": "wait=60"})
    assert tried.status_code in {200, 202}, tried.text
    place = f"/v1/jobs/{job_id}/try/{tried.json()['id']}"
    told = wait_for(lambda: one if (one := http.get(place).json())["finished_at"] else None, 300)
    found = told["result"]
    assert found is not None, told
    assert (found["asked"]["text"], found["expected"]) == (rows[3]["text"], rows[3]["label"])
    assert [found["compressed"]["label"]] == stock_labels(opened, [rows[3]["text"]])
    assert found["compressed"]["bytes"] < found["original"]["bytes"]


@pytest.mark.parametrize(
    ("database", "real"),
    [("sqlite", False), ("postgresql", True)],
    ids=["tiny-sqlite", "real-postgresql"],
    indirect=["database"],
)
def test_a_job_runs_up_to_its_download(real: bool, service: Service, http: httpx.Client, tiny: Path, tmp_path: Path) -> None:
    service.start_workers("jobs")
    recipe, files = TINY_RECIPE, tiny_splits()
    if real:
        recipe = {"prepare": {"epochs": 1}, "distill": {"epochs": 1}, "train": {"max_length": 32}}
        limits = {"train.jsonl": 64, "validation.jsonl": 32, "test.jsonl": 32}  # what it learns is not asked here
        data = examples.real_examples() / "data"
        files = {name: b"".join((data / name).read_bytes().splitlines(keepends=True)[:most]) for name, most in limits.items()}
    model = send_model(http, examples.real_examples() / "model" if real else tiny)
    dataset = send_data(http, files)
    assert (model["state"], dataset["state"]) == ("ready", "ready"), (model["reasons"], dataset["reasons"])
    # Short texts are timed within a second; long ones of the real model would be for eight, at each stage.
    body = {"models": {"base": model["id"]}, "datasets": [dataset["id"]], "recipe": recipe, "evaluate": {"length": 8}}
    planned = http.post("/v1/jobs?validate_only=true", json=body).json()
    job_id = http.post("/v1/jobs", json=body).json()["id"]
    done = finished(http, job_id)
    assert done["state"] == "succeeded", (done["error"], service.log("jobs"))

    assert [row["stage"] for row in done["rows"]] == ["baseline", "quantized", "pruned", "distilled"]
    before, after = done["rows"][0], done["rows"][-1]
    assert after["parameters"]["total"] == planned["parameters"]["total"] < 0.65 * before["parameters"]["total"]
    # Of a tiny model the graph itself is most of the file; of a real one the weights are.
    assert after["size"]["bytes"] < (0.18 if real else 0.9) * before["size"]["bytes"]
    assert after["latency"]["runs"] > 1
    assert all(row["peak_memory_bytes"] > 0 for row in done["rows"])
    for row in done["rows"][1:]:
        assert row["score"]["rows_changed_by_batching"] == 0

    report = http.get(f"/v1/jobs/{job_id}/report").json()
    artifacts = {artifact["name"]: artifact for artifact in http.get(f"/v1/jobs/{job_id}/artifacts").json()["items"]}
    assert {artifact["name"] for artifact in report["artifacts"]} == set(artifacts)
    assert [artifact["kind"] for artifact in artifacts.values()].count("transformers") == 1
    test_rows = [json.loads(line) for line in files["test.jsonl"].decode().splitlines()]
    opened = download(http, artifacts[report["headline"]], tmp_path / "headline")
    chosen = next(row for row in done["rows"] if row["artifact"] == report["headline"])
    assert stock_accuracy(opened, test_rows) == pytest.approx(chosen["score"]["value"], abs=1e-9)
    assert report["choice"]

    # What it was made from goes with it, and its checkpoint, made at the end, has all rows.
    told = json.loads((opened / "before.json").read_text())
    assert (told["job"], told["baseline"]["score"]) == (job_id, before["score"])
    assert [row["stage"] for row in told["rows"]][-1] == chosen["stage"]
    checkpoint = next(one for one in artifacts.values() if one["kind"] == "transformers")
    whole = json.loads((download(http, checkpoint, tmp_path / "checkpoint") / "before.json").read_text())
    assert [row["artifact"] for row in whole["rows"]] == [row["artifact"] for row in done["rows"]]
    assert (whole["job"], whole["figures"]["score"]) == (job_id, checkpoint["score"])

    answer_both(http, job_id, test_rows, opened)

    # A second delivery finds nothing to do.
    seen = events(http, job_id)
    WakeUpSender(Settings(broker_url=service.broker)).send(JOBS)
    # By when a later job is over, the message was long taken; that its worker lacks what it needs ends this one at once.
    lacking = {**recipe, "distill": {"augment": {"synonyms": {"source": "wordnet"}}}}
    again = finished(http, http.post("/v1/jobs", json={**body, "recipe": lacking}).json()["id"])
    assert (again["state"], again["error"]["code"]) == ("failed", "missing_resource"), again["error"]
    assert events(http, job_id) == seen


@ONCE  # tests/faults kills at each point on PostgreSQL; here the whole worker goes, and its engine with it
def test_a_killed_workers_job_ends_on_the_next(service: Service, http: httpx.Client, tiny: Path) -> None:
    service.settings["LATHE_LEASE_SECONDS"] = "20"  # none is lost but by the kill
    service.start_workers("jobs")
    job_id = submit(http, tiny, quantize=None, distill={"epochs": 12, "rate": 1e-3})
    wait_for(lambda: job(http, job_id)["stage"] == "distilled", PATIENCE)
    engines = psutil.Process(service.processes["jobs"].pid).children(recursive=True)
    last = Path(f"/proc/{engines[-1].pid}/status").read_text()
    assert "NoNewPrivs:\t1" in last  # an engine that was forked is as confined as one that was executed
    assert "Seccomp:\t2" in last
    service.kill("jobs")
    wait_for(lambda: not any(map(lives, engines)))
    service.start_workers("jobs")
    done = finished(http, job_id)
    assert done["state"] == "succeeded", (done["error"], service.log("jobs"))
    assert (done["attempt"], done["failures"]) == (2, 1)
    told = events(http, job_id)
    assert "requeued" in [event["type"] for event in told]
    # No finished stage was done twice: each has one row, and the second attempt took the first two as they were.
    stages = [event["data"]["row"]["stage"] for event in told if event["type"] == "stage_finished"]
    assert stages == ["baseline", "pruned", "distilled"]
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))


@ONCE  # tests/faults cancels running jobs of both databases, and drains workers of both
def test_a_running_job_is_cancelled_and_nothing_of_it_is_left(service: Service, http: httpx.Client, tiny: Path) -> None:
    service.start_workers("jobs")
    job_id = submit(http, tiny, prepare={"epochs": 200, "rate": 1e-3})
    wait_for(lambda: job(http, job_id)["stage"] == "baseline", PATIENCE)
    assert http.post(f"/v1/jobs/{job_id}/cancel").json()["cancel_requested_at"]
    assert finished(http, job_id)["state"] == "cancelled"
    worker = psutil.Process(service.processes["jobs"].pid)
    wait_for(lambda: not [p for p in worker.children(recursive=True) if "compression" in command_of(p)])
    wait_for(lambda: not list((service.home / "scratch").glob("job_*")))


@ONCE
def test_a_worker_that_is_told_to_stop_gives_its_job_back(service: Service, http: httpx.Client, tiny: Path) -> None:
    service.settings["LATHE_LEASE_SECONDS"] = "60"  # no busy moment ends it
    service.start_workers("jobs")
    job_id = submit(http, tiny, prepare={"epochs": 200, "rate": 1e-3})
    wait_for(lambda: job(http, job_id)["stage"] == "baseline", PATIENCE)
    service.processes["jobs"].send_signal(signal.SIGTERM)
    service.processes["jobs"].wait(60)
    given_back = job(http, job_id)
    assert (given_back["state"], given_back["failures"]) == ("queued", 0)
    workers = http.get("/v1/workers").json()["items"]
    assert {worker["kind"]: worker["drain"] for worker in workers} == {"jobs": True, "checks": False}


def without_weights(tiny: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tiny.iterdir() if path.name != "model.safetensors"}


def changed(tiny: Path, name: str, change: Any) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in tiny.iterdir()}
    files[name] = change(files[name])
    return files


def lie(data: bytes) -> bytes:
    """Make a header claim another shape for its bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name]["shape"] = [side * 2 for side in header[name]["shape"]]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@ONCE
def test_bad_models_are_rejected_by_name(service: Service, http: httpx.Client, tiny: Path) -> None:
    other = json.dumps({"model_type": "t5", "architectures": ["T5Model"]}).encode()
    promised = [{"path": name, "size": len(data), "sha256": "0" * 64} for name, data in without_weights(tiny).items()]
    named = {"path": "pytorch_model.bin", "size": 1, "sha256": "0" * 64}
    refused = http.post("/v1/models", json={"name": "pickle", "files": [*promised, named]}).json()
    assert (refused["code"], refused["param"]) == ("unsafe_checkpoint", "pytorch_model.bin")
    cases = {
        "unsafe_checkpoint": without_weights(tiny) | {"model.safetensors": pickle.dumps({"weight": list(range(100))})},
        "damaged_checkpoint": changed(tiny, "model.safetensors", lambda data: data[:-100]),
        "unsupported_architecture": changed(tiny, "config.json", lambda _: other),
        "missing_file": {name: data for name, data in without_weights(tiny).items() if name == "config.json"},
    }
    for code, files in cases.items():
        found = send(http, "models", {"name": code}, files)
        assert found["state"] == "rejected"
        reason = next(reason for reason in found["reasons"] if reason["code"] == code)
        assert reason["remedy"]
        assert reason["param"]
    lying = send(http, "models", {"name": "lie"}, changed(tiny, "model.safetensors", lie))
    assert [reason["code"] for reason in lying["reasons"]] == ["damaged_checkpoint"]


@ONCE
def test_bad_data_is_rejected_by_name(service: Service, http: httpx.Client) -> None:
    rows = examples.tiny_rows(64, 1)
    random.Random(0).shuffle(rows)
    unseen = jsonl([{"text": "it was fine", "label": "mixed"}])
    cases: list[tuple[str, dict[str, bytes], dict[str, Any]]] = [
        ("missing_column", {"train.jsonl": jsonl(rows)}, {"columns": {"text": "text", "label": "stars"}}),
        ("empty_split", {"train.jsonl": jsonl(rows), "test.jsonl": b""}, {}),
        ("unseen_label", {"train.jsonl": jsonl(rows), "test.jsonl": unseen}, {}),
        ("unreadable_data", {"train.jsonl": b"{nonsense\n"}, {}),
        ("single_label", {"train.jsonl": jsonl([row for row in rows if row["label"] == "positive"])}, {}),
    ]
    for code, files, body in cases:
        found = send_data(http, files, **body)
        assert found["state"] == "rejected", code
        reason = next(reason for reason in found["reasons"] if reason["code"] == code)
        assert reason["remedy"]
        assert reason["param"]
