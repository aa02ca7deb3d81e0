"""Networks of images over HTTP: from the upload through a whole job to a download that stock tools open, alone."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoModelForImageClassification, MobileNetV2Config, PretrainedConfig, ResNetConfig, ViTConfig

from tests.conftest import Service
from tests.support.clean_environment import image_answers
from tests.support.examples import send_data, send_model
from tests.support.image_jobs import SIDE, images, onnx_folder, with_preprocessor
from tests.support.image_uploads import arrays
from tests.support.images import CLASSES, encoded, pixels
from tests.support.network_graphs import GraphBuilder, densenet, mobilenet_v2
from tests.support.timm_models import save_timm
from tests.workers.test_whole import download, finished

ROWS, TEST = 32, 2000
"""Images of the test split, and the seed of the first."""
NOT_FOR_ONNX = ("torch", "transformers", "timm", "tokenizers")
RECIPE: dict[str, Any] = {
    "prepare": {"epochs": 4, "rate": 5e-3},
    "quantize": {"scheme": "static-int8", "calibration_rows": 32},
    "prune": {"ratio": 0.3, "axes": ["channels"], "importance": "l1_weight", "calibration_rows": 32},
    "distill": {"epochs": 2, "rate": 5e-3},
    "train": {"batch": 16, "views": {"crop": 1, "flip": True}},
}


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


def images_of_test(place: Path) -> list[Path]:
    """Write the images of the test split as files."""
    place.mkdir()
    paths = [place / f"{number}.png" for number in range(ROWS)]
    for path, shown in zip(paths, images(ROWS, TEST)[0], strict=True):
        Image.fromarray(shown).save(path)
    return paths


def accuracy(answers: list[str]) -> float:
    """Return the share of the test split's rows that have their label."""
    return sum(answer == label for answer, label in zip(answers, images(ROWS, TEST)[1], strict=True)) / ROWS


@dataclass(frozen=True)
class Job:
    """What came of a job: its report's rows by stage, its artifacts by name."""

    rows: dict[str, Any]
    made: dict[str, Any]


def compressed(service: Service, http: httpx.Client, folder: Path, recipe: dict[str, Any], *, raw: bool = False) -> Job:
    """Run a job on the model of a folder; hold its rows against its stages and its forecast."""
    service.start_workers("jobs")
    model = send_model(http, folder)
    files = {"train.npz": arrays(96, 0), "validation.npz": arrays(32, 1000), "test.npz": arrays(ROWS, TEST)}
    data = send_data(http, files, task="image-classification", format="npz")
    assert (model["state"], data["state"]) == ("ready", "ready"), (model["reasons"], data["reasons"])
    body = {"models": {"base": model["id"]}, "datasets": [data["id"]], "recipe": recipe}
    body["evaluate"] = {"raw_inputs": raw}
    planned = http.post("/v1/jobs?validate_only=true", json=body).json()
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    done = finished(http, answer.json()["id"])
    assert done["state"] == "succeeded", done
    report = http.get(f"/v1/jobs/{done['id']}/report").json()
    assert not any("torchao" in note for note in report["notes"])
    rows = {row["stage"]: row for row in report["rows"]}
    assert list(rows) == ["baseline", *(["quantized"] if recipe["quantize"] else []), "pruned", "distilled"]
    assert rows["pruned"]["parameters"]["total"] < rows["baseline"]["parameters"]["total"]
    assert rows["distilled"]["shape"] == planned["shape"]
    assert rows["distilled"]["parameters"]["total"] == planned["parameters"]["total"]
    assert set(rows["distilled"]["score"]["metrics"]) == {"accuracy", "balanced_accuracy"}
    items = http.get(f"/v1/jobs/{done['id']}/artifacts").json()["items"]
    return Job(rows, {one["name"]: one for one in items})


def recipe_of(kind: str, **prune: Any) -> dict[str, Any]:
    axes = ["heads", "ffn"] if kind == "vit" else ["channels"]
    quantize = RECIPE["quantize"] | ({"symmetric": True} if kind == "onnx-depthwise" else {})
    return {**RECIPE, "quantize": quantize, "prune": {**RECIPE["prune"], "axes": axes, **prune}}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_network_of_images_goes_through_a_job_and_opens_with_stock_tools(
    kind: str, service: Service, http: httpx.Client, tmp_path: Path
) -> None:
    job = compressed(service, http, FOLDERS[kind](tmp_path / "network"), recipe_of(kind), raw=kind == "resnet")
    assert ("folding" in job.rows["quantized"]) == (
        kind not in ("vit", "onnx-depthwise")
    )  # that file's norms were folded before
    last = job.rows["distilled"]
    folder = download(http, job.made[last["artifact"]], tmp_path / "download")
    answers = image_answers(folder, images_of_test(tmp_path / "images"), tmp_path / "packages", NOT_FOR_ONNX)
    assert accuracy(answers) == last["score"]["value"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("kind", "axes"), [("resnet", ["hidden", "channels"]), ("vit", ["heads", "ffn"])])
def test_a_cut_that_its_config_can_state_comes_back_as_a_checkpoint_of_transformers(
    kind: str, axes: list[str], service: Service, http: httpx.Client, tmp_path: Path
) -> None:
    sent = stock_folder(kind, tmp_path / "network")
    job = compressed(service, http, sent, {**recipe_of(kind, stock=True, axes=axes, multiple=2), "quantize": None})
    (checkpoint,) = [one for one in job.made.values() if one["kind"] == "transformers"]
    assert checkpoint["stage"] in ("pruned", "distilled")
    folder = download(http, checkpoint, tmp_path / "download")
    before, after = (json.loads((place / "config.json").read_text()) for place in (sent, folder))
    assert after["architectures"] == before["architectures"]
    width = "intermediate_size" if kind == "vit" else "hidden_sizes"
    assert after[width] < before[width]
    answers = image_answers(folder, images_of_test(tmp_path / "images"), tmp_path / "packages", ["onnxruntime", "torchvision"])
    assert accuracy(answers) == checkpoint["score"]["value"] == job.rows[checkpoint["stage"]]["score"]["value"]


def timm_answers(folder: Path, paths: list[Path]) -> list[str]:
    """Return what timm answers with a folder of its own."""
    model, shown = opened_in_timm(folder, paths)
    with torch.no_grad():
        return [CLASSES[int(row.argmax())] for row in model(shown)]


def opened_in_timm(folder: Path, paths: list[Path]) -> tuple[torch.nn.Module, torch.Tensor]:
    """Open a folder with timm, and images as timm evaluates them."""
    model: torch.nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return model, torch.stack([transform(Image.open(path)) for path in paths])


def timm_folder(place: Path, paths: list[Path]) -> Path:
    """Write a model of timm, as save_for_hf does, that gives each class to half of the images."""
    torch.manual_seed(0)
    model: Any = timm.create_model("test_efficientnet", num_classes=len(CLASSES)).eval()
    save_timm(model, place, side=32, label_names=list(CLASSES))
    own, shown = opened_in_timm(place, paths)
    with torch.no_grad():
        leanings = own(shown).diff(dim=1).flatten().sort().values
        model.classifier.bias[1] -= leanings[ROWS // 2 - 1 : ROWS // 2 + 1].mean()
    return save_timm(model, place, side=32, label_names=list(CLASSES))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_model_of_timm_answers_as_in_timm_and_goes_through_a_job(
    service: Service, http: httpx.Client, tmp_path: Path
) -> None:
    paths = images_of_test(tmp_path / "images")
    sent = timm_folder(tmp_path / "network", paths)
    job = compressed(service, http, sent, {**recipe_of("timm"), "prepare": {"epochs": 0}})
    answers = {}
    for stage in ("baseline", "distilled"):
        folder = download(http, job.made[job.rows[stage]["artifact"]], tmp_path / stage)
        answers[stage] = image_answers(folder, paths, tmp_path / f"packages-{stage}", NOT_FOR_ONNX)
        assert accuracy(answers[stage]) == job.rows[stage]["score"]["value"]
    assert answers["baseline"] == timm_answers(sent, paths)
    assert {one["kind"] for one in job.made.values()} == {"onnx"}
    why = "There is no checkpoint beside this file: timm's test_efficientnet has no model of these widths and blocks."
    assert why in (tmp_path / "distilled" / "README.md").read_text()
    assert why not in (tmp_path / "baseline" / "README.md").read_text()
    assert set(answers["baseline"]) == set(CLASSES)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
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


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_folder_of_images_by_class_is_checked_as_it_was_sent(service: Service, http: httpx.Client) -> None:
    files = {
        f"my photos/{CLASSES[number % 2]} ones/Bild {number}.png": encoded(pixels(number % 2, number)) for number in range(20)
    }
    sent = {"task": "image-classification", "format": "folder", "splits": {"train": ["my photos"]}}
    data = send_data(http, files, **sent)
    assert (data["state"], data["reasons"]) == ("ready", [])
    assert data["facts"]["label_counts"] == {"train": {"cool ones": 10, "warm ones": 10}}
    data = send_data(http, {**files, "my photos/warm ones/cut.png": encoded(pixels(1, 1))[:-50]}, **sent)
    assert [reason["param"] for reason in data["reasons"]] == ["my photos/warm ones/cut.png"]
