"""Decoders as classifiers with real processes: taught like encoders, or from file to file where memory is too little."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.compression.engine.on_disk.test_backend import model_into
from tests.conftest import Service
from tests.support.decoder_models import saved, tiny
from tests.support.examples import send_data, send_model
from tests.support.tiny_bert import sentences, write_tokenizer
from tests.workers.test_whole import ONCE, download, finished

FFN = {"ratio": {"ffn": 0.5}, "multiple": 8, "calibration_rows": 32}


def splits() -> dict[str, bytes]:
    counts = {"train": 96, "validation": 32, "test": 24}
    rows = {name: sentences(count, seed=len(name)) for name, count in counts.items()}
    return {
        f"{name}.jsonl": "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in found).encode()
        for name, found in rows.items()
    }


def done(http: httpx.Client, folder: Path, files: dict[str, bytes], service: Service, **recipe: Any) -> dict[str, Any]:
    model, data = send_model(http, folder), send_data(http, files)
    assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": recipe, "evaluate": {"length": 16}}
    sent = http.post("/v1/jobs", json=body)
    assert sent.status_code == 202, sent.text
    found = finished(http, sent.json()["id"])
    assert found["state"] == "succeeded", (found["error"], service.log("jobs"))
    return found


@ONCE
def test_a_decoder_is_taught_a_task_cut_and_taught_again(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    service.start_workers("jobs")
    write_tokenizer(saved(tiny("llama", "Model", pad_token_id=0), tmp_path / "model"))
    files = splits()
    objective = {"epochs": 2, "rate": 3e-3}
    recipe = {"prepare": objective, "prune": FFN, "distill": objective, "train": {"max_length": 32}}
    job = done(http, tmp_path / "model", files, service, **recipe)
    assert [row["stage"] for row in job["rows"]] == ["baseline", "quantized", "pruned", "distilled"]
    assert (job["rows"][0]["shape"]["ffn"], job["rows"][-1]["shape"]["ffn"]) == (64, 32)
    report = http.get(f"/v1/jobs/{job['id']}/report").json()
    artifacts = {one["name"]: one for one in http.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]}
    headline = download(http, artifacts[report["headline"]], tmp_path / "onnx")
    chosen = next(row for row in job["rows"] if row["artifact"] == report["headline"])
    session = onnxruntime.InferenceSession(headline / "model.onnx")
    tokenizer = Tokenizer.from_file(str(headline / "tokenizer.json"))
    labels, right = json.loads((headline / "config.json").read_text())["id2label"], 0
    rows = [json.loads(line) for line in files["test.jsonl"].decode().splitlines()]
    for row in rows:
        read = tokenizer.encode(row["text"])
        feed = {"input_ids": np.array([read.ids]), "attention_mask": np.array([read.attention_mask])}
        right += labels[str(session.run(None, feed)[0][0].argmax())] == row["label"]
    assert right / len(rows) == pytest.approx(chosen["score"]["value"], abs=1e-9)


@ONCE
def test_a_decoder_beyond_a_worker_s_memory_runs_file_to_file(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    service.settings["LATHE_ENGINE_MEMORY_BYTES"] = "2000000000"
    service.start_workers("jobs")
    model = model_into(tmp_path / "model", vocab_size=1 << 18, hidden_size=192, head_dim=48)
    job = done(http, model, splits(), service, prepare={"epochs": 0}, prune=FFN, distill=None, train={"max_length": 32})
    before, _, after = job["rows"]
    assert "from file to file" in before["notes"][0].replace("\n", " ")
    assert (before["shape"]["ffn"], after["shape"]["ffn"]) == (64, 32)
    assert after["artifact"] == "pruned-onnx-int8"  # what was written piece by piece fits memory when it is opened
    assert after["size"]["bytes"] < 0.3 * before["size"]["bytes"]
    artifacts = http.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    folder = download(http, next(one for one in artifacts if one["name"] == "pruned-transformers-int8"), tmp_path / "got")
    opened = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        answer = opened(**AutoTokenizer.from_pretrained(folder)("the film was good", return_tensors="pt"))
    assert answer.logits.shape == (1, 2)
