"""Networks of 224 × 224 with random weights, through whole jobs without training: their speed does not depend on weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from bench import engine
from bench.vision.cifar_resnet import PREPROCESSOR
from bench.vision.rows import TASK
from compression.schema.job_spec import Data
from compression.schema.recipe.recipe import Recipe

SIZE, CLASSES, ROWS = 224, 10, {"train": 64, "validation": 16, "test": 16}
RESNET18 = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}


@dataclass(frozen=True)
class Cut:
    """A network and what is cut of it."""

    network: str
    prune: dict[str, Any]
    about: str


CUTS = {
    "resnet18-45": Cut(
        "resnet18", {"ratio": {"hidden": 0.3, "channels": 0.3}, "target_flops": 0.45}, "45 % fewer multiply-adds"
    ),
    "mobilenet-75": Cut("mobilenet", {"ratio": {"hidden": 0.25, "channels": 0.25}}, "widths of 75 %"),
}


def write_model(name: str, folder: Path) -> Path:
    """Write a stock checkpoint with random weights, as a user would upload it."""
    labels = {number: f"class {number}" for number in range(CLASSES)}
    torch.manual_seed(0)
    network: PreTrainedModel
    if name == "resnet18":
        network = ResNetForImageClassification(ResNetConfig(**RESNET18, id2label=labels))
    else:
        network = MobileNetV2ForImageClassification(MobileNetV2Config(image_size=SIZE, id2label=labels))
    network.eval().save_pretrained(folder)
    own = PREPROCESSOR | {"size": {"height": SIZE, "width": SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(own, indent=1), encoding="utf-8")
    return folder


def write_data(folder: Path) -> Data:
    """Write a few random images of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for split, rows in ROWS.items():
        images = draw.integers(0, 256, (rows, SIZE, SIZE, 3), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", image=images, label=np.array([f"class {row % CLASSES}" for row in range(rows)]))
    return Data(format="npz", splits={split: (str(folder / f"{split}.npz"),) for split in ROWS})


def files(name: str, place: Path, threads: int | None) -> dict[str, Path]:
    """Run the job of a cut, or return the result of an earlier call: the files of its baseline, its integers and its cut."""
    cut = CUTS[name]
    model = place / "models" / cut.network
    if not (model / "config.json").is_file():
        write_model(cut.network, model)
    asked: dict[str, Any] = {
        "prepare": {"epochs": 0},
        "quantize": {"scheme": "static-int8", "calibration_rows": 32},
        "prune": {**cut.prune, "importance": "l1_weight", "calibration_rows": 32},
        "distill": None,
    }
    spec = {"task": TASK, "model": str(model), "data": write_data(place / "random"), "recipe": Recipe.model_validate(asked)}
    done = engine.run(place / "runs" / name, {**spec, "threads": threads}, keep={"onnx"})
    return {f"{name} {row.stage}": done.artifact(row.artifact) / "model.onnx" for row in done.report.rows}
