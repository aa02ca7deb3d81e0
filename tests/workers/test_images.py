"""Networks of images over HTTP: from the upload through a whole job to a download that ONNX Runtime and Pillow open."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, MobileNetV2Config, PretrainedConfig, ResNetConfig, ViTConfig

from compression.export.onnx.exporter import write_onnx
from compression.models.networks.graph import Graph
from tests.conftest import Service
from tests.support.examples import send_data, send_model
from tests.support.images import CLASSES, pixels
from tests.support.network_graphs import GraphBuilder, densenet, mobilenet_v2
from tests.support.network_models import drawn_network
from tests.workers.test_whole import download, finished

SIDE = 8
RECIPE: dict[str, Any] = {
    "prepare": {"epochs": 4, "rate": 5e-3},
    "quantize": {"scheme": "static-int8", "calibration_rows": 32},
    "prune": {"ratio": 0.3, "axes": ["channels"], "importance": "l1_weight", "calibration_rows": 32},
    "distill": {"epochs": 2, "rate": 5e-3},
    "train": {"batch": 16, "views": {"crop": 1, "flip": True}},
}


def two_classes(graph: Graph) -> Graph:
    """Return a network's graph with as many outputs as the images have classes."""
    *body, last = graph.nodes
    shapes = {role: (len(CLASSES), *shape[1:]) for role, shape in last.tensors.items()}
    return Graph(shape=graph.shape, nodes=(*body, last.model_copy(update={"tensors": shapes})), output=graph.output)


def with_preprocessor(place: Path, side: int) -> Path:
    """Write what is done to a model's images."""
    how = {"size": {"height": side, "width": side}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (place / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor", **how}))
    return place


def onnx_folder(graph: Graph, place: Path) -> Path:
    """Write a network as a user would send it: model.onnx, and the names of its outputs."""
    place.mkdir()
    write_onnx(drawn_network(two_classes(graph)), place, int8=False)
    (place / "config.json").write_text(json.dumps({"id2label": dict(enumerate(CLASSES))}))
    return with_preprocessor(place, SIDE)


def stock_folder(kind: str, place: Path) -> Path:
    """Write a small classifier of transformers, as save_pretrained does."""
    named = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: number for number, name in enumerate(CLASSES)}}
    configs: dict[str, PretrainedConfig] = {
        "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", **named),
        "mobilenet_v2": MobileNetV2Config(image_size=32, depth_multiplier=0.25, last_hidden_size=32, **named),
        "vit": ViTConfig(
            image_size=32,
            patch_size=8,
            hidden_size=24,
            num_attention_heads=3,
            num_hidden_layers=2,
            intermediate_size=48,
            **named,
        ),
    }
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(configs[kind]).save_pretrained(place)
    return with_preprocessor(place, 32)


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "onnx-concatenation": lambda place: onnx_folder(densenet(), place),
    "onnx-depthwise": lambda place: onnx_folder(mobilenet_v2(), place),
    "resnet": lambda place: stock_folder("resnet", place),
    "mobilenet_v2": lambda place: stock_folder("mobilenet_v2", place),
    "vit": lambda place: stock_folder("vit", place),
}


def images(rows: int, seed: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    labels = [number % 2 for number in range(rows)]
    return np.stack([pixels(label, seed + number) for number, label in enumerate(labels)]), [CLASSES[label] for label in labels]


def arrays(rows: int, seed: int) -> bytes:
    stream = io.BytesIO()
    shown, labels = images(rows, seed)
    np.savez(stream, image=shown, label=np.array(labels))
    return stream.getvalue()


def stock_answers(folder: Path, shown: npt.NDArray[np.uint8]) -> list[str]:
    """Answer with ONNX Runtime and Pillow alone, as the file beside the weights says."""
    how = json.loads((folder / "preprocessor_config.json").read_text())
    height, width = (how["size"][side] for side in ("height", "width"))
    mean, deviation = (np.array(how[key], np.float32) for key in ("image_mean", "image_std"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    found = []
    for image in shown:
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
        (logits,) = session.run(None, {"pixel_values": ((resized - mean) / deviation).transpose(2, 0, 1)[None]})
        found.append(labels[str(int(logits[0].argmax()))])
    return found


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_network_of_images_goes_through_a_job_and_opens_with_stock_tools(
    kind: str, service: Service, http: httpx.Client, tmp_path: Path
) -> None:
    service.start_workers("jobs")
    model = send_model(http, FOLDERS[kind](tmp_path / "network"))
    files = {"train.npz": arrays(96, 0), "validation.npz": arrays(32, 1000), "test.npz": arrays(32, 2000)}
    data = send_data(http, files, task="image-classification", format="npz")
    assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
    axes = ["heads", "ffn"] if kind == "vit" else ["channels"]
    recipe = {**RECIPE, "prune": {**RECIPE["prune"], "axes": axes}}
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": recipe}
    planned = http.post("/v1/jobs?validate_only=true", json=body).json()
    done = finished(http, http.post("/v1/jobs", json=body).json()["id"])
    assert done["state"] == "succeeded", done
    report = http.get(f"/v1/jobs/{done['id']}/report").json()
    rows = {row["stage"]: row for row in report["rows"]}
    assert list(rows) == ["baseline", "quantized", "pruned", "distilled"]
    assert rows["pruned"]["parameters"]["total"] < rows["baseline"]["parameters"]["total"]
    assert rows["distilled"]["shape"] == planned["shape"]
    assert rows["distilled"]["parameters"]["total"] == planned["parameters"]["total"]
    assert set(rows["distilled"]["score"]["metrics"]) == {"accuracy", "balanced_accuracy"}
    made = {one["name"]: one for one in http.get(f"/v1/jobs/{done['id']}/artifacts").json()["items"]}
    folder = download(http, made[rows["distilled"]["artifact"]], tmp_path / "download")
    shown, labels = images(32, 2000)
    right = sum(answer == label for answer, label in zip(stock_answers(folder, shown), labels, strict=True))
    assert right / len(labels) == rows["distilled"]["score"]["value"]


def test_what_no_network_may_have_is_refused_by_name(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    net = GraphBuilder((3, SIDE, SIDE))
    folder = onnx_folder(net.classified(net.conv("input", 4)), tmp_path / "network")
    (folder / "preprocessor_config.json").unlink()
    model = send_model(http, folder)
    assert model["state"] == "rejected"
    assert [(reason["code"], reason["param"]) for reason in model["reasons"]] == [("missing_file", "preprocessor_config.json")]
    data = send_data(http, {"train.npz": arrays(96, 0)[:-40]}, task="image-classification", format="npz")
    assert data["state"] == "rejected"
    assert data["reasons"][0]["code"] == "unreadable_data"
    assert data["reasons"][0]["remedy"]
