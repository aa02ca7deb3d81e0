"""The formats that a recipe names come out of a job over HTTP, each scored in its own runtime."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from compression.evaluation.runtimes.openvino import imported
from tests.conftest import Service
from tests.support.examples import real_examples, send, send_data, send_model
from tests.support.image_jobs import SIDE, images, onnx_folder
from tests.support.image_uploads import arrays
from tests.support.network_graphs import resnet
from tests.workers.test_language import TEXTS, gguf
from tests.workers.test_whole import download, finished

ROWS, TEST = 32, 2000
OF_IMAGES = ["openvino-int8", "openvino-f16", "onnx-f16"]
OF_LANGUAGE = ["genai", "gguf-q8-0", "gguf-q4-0", "gguf-bf16", "ct-w8a8", "ct-w4a16", "ct-fp8"]


def ran(service: Service, http: httpx.Client, body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Run a job; return its artifacts beside those of its stages, by their formats."""
    sent = http.post("/v1/jobs", json=body)
    assert sent.status_code == 202, sent.text
    done = finished(http, sent.json()["id"])
    assert done["state"] == "succeeded", (done["error"], service.log("jobs"))
    made = http.get(f"/v1/jobs/{done['id']}/artifacts").json()["items"]
    return {one["kind"]: one for one in made if one["kind"] != "onnx"}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_network_ships_in_the_formats_that_are_asked_for(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    service.start_workers("jobs")
    model = send_model(http, onnx_folder(resnet(), tmp_path / "network"))
    files = {"train.npz": arrays(96, 0), "validation.npz": arrays(32, 1000), "test.npz": arrays(ROWS, TEST)}
    data = send_data(http, files, task="image-classification", format="npz")
    recipe = {"prepare": {"epochs": 4, "rate": 5e-3}, "quantize": {"scheme": "static-int8"}, "prune": None, "distill": None}
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": {**recipe, "artifacts": ["gguf-q8-0"]}}
    refused = http.post("/v1/jobs?validate_only=true", json=body)
    assert (refused.status_code, refused.json()["param"]) == (422, "recipe.artifacts"), refused.text
    assert "is a format of language models" in refused.json()["detail"]

    found = ran(service, http, {**body, "recipe": {**recipe, "train": {"batch": 16}, "artifacts": OF_IMAGES}})
    assert sorted(found) == sorted(OF_IMAGES)
    assert {kind: one["trained_as_shipped"] for kind, one in found.items()} == {kind: "int8" in kind for kind in OF_IMAGES}
    for one in found.values():
        assert one["score"]["rows"] == ROWS
        assert one["validation"]["rows"] == 32
        assert one["latency"]["median_ms"] > 0
        assert one["latency"]["baseline_median_ms"] > 0
        assert sum(one["operators"]["after"].values()) < sum(one["operators"]["before"].values())
    folder = download(http, found["openvino-int8"], tmp_path / "download")
    opened = imported().Core().compile_model(folder / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shown, labels = images(ROWS, TEST)
    resized = [np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for each in shown]
    pixels = ((np.stack(resized).astype(np.float32) / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2)
    answers = opened(np.ascontiguousarray(pixels))["logits"].argmax(axis=1)
    names = sorted(set(labels))
    right = sum(names[answer] == label for answer, label in zip(answers, labels, strict=True))
    assert right / ROWS == found["openvino-int8"]["score"]["value"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_language_model_ships_for_llama_cpp_and_for_vllm(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    service.start_workers("jobs")
    model = send(http, "models", {"name": "tiny"}, {"tiny.Q8_0.gguf": gguf(tmp_path).read_bytes()})
    place = real_examples("texts") / "texts"
    files = {name: "\n\n".join((place / name).read_text().split("\n\n")[:most]).encode() for name, most in TEXTS.items()}
    splits = {name.split(".")[0]: [name] for name in files}
    data = send(http, "datasets", {"name": "editorials", "format": "text", "task": "causal-lm", "splits": splits}, files)
    recipe = {"preset": "language", "prepare": {"epochs": 2, "rate": 3e-3}, "prune": None, "distill": None}
    recipe |= {"quantize": {"calibration_rows": 8}, "train": {"max_length": 64, "batch": 16}, "artifacts": OF_LANGUAGE}
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": recipe}
    found = ran(service, http, {**body, "evaluate": {"length": 16, "tokens": 1024}})
    assert sorted(found) == sorted(OF_LANGUAGE)
    scores = {kind: one["score"]["value"] for kind, one in found.items()}
    least = min(scores.values())
    assert all(1 < least <= score < 1.2 * least for score in scores.values()), scores
    assert not any(one["trained_as_shipped"] for kind, one in found.items() if kind.startswith("ct-"))
    speeds = {
        kind: one["latency"]["generation"]["decode_per_second"] for kind, one in found.items() if "median_ms" in one["latency"]
    }
    assert sorted(speeds) == sorted(kind for kind in OF_LANGUAGE if not kind.startswith("ct-"))
    assert min(speeds.values()) > 0
