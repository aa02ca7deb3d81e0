"""The toy package, installed as an operator installs one: into the site-packages of the environment that runs Lathe."""

import json
import random
import subprocess
import sys
import venv
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.conftest import ROOT

PACKAGE = ROOT / "tests" / "support" / "toy_package"
LABELS = ("left", "right")
FEATURES, UNITS = 8, 64


def environment(place: Path) -> Path:
    """Make a virtual environment with all that ours has and the toy package; return its interpreter."""
    venv.EnvBuilder(symlinks=True).create(place)
    (site,) = place.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "lathe.pth").write_text("\n".join([str(ROOT), *ours]))
    install(site)
    return place / "bin" / "python"


def install(site: Path) -> None:
    """Install the package into a folder of packages, by pip as an operator does."""
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(PACKAGE)], check=True)


def write_entry_points(site: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    """Write the metadata of a distribution with these entry points."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = (f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in found.items()) for group, found in groups.items())
    (info / "entry_points.txt").write_text("".join(points))


def write_model(folder: Path) -> Path:
    """Write an untrained model: config.json and model.safetensors."""
    folder.mkdir()
    config = {
        "model_type": "toy-mlp",
        "architectures": ["ToyMlpForSequenceClassification"],
        "features": FEATURES,
        "units": UNITS,
        "layers": 2,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: number for number, label in enumerate(LABELS)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    draw = torch.Generator().manual_seed(0)
    shapes = {"classifier": (len(LABELS), FEATURES)}
    for layer in range(2):
        shapes |= {f"layers.{layer}.up": (UNITS, FEATURES), f"layers.{layer}.down": (FEATURES, UNITS)}
    tensors = {f"{name}.weight": 0.2 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    save_file(tensors | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


def splits(train: int = 256) -> dict[str, bytes]:
    """Return the files of a dataset: the sign of a product decides, which no linear model can tell."""
    found = {}
    for seed, (name, count) in enumerate({"train": train, "validation": 64, "test": 64}.items()):
        draw, lines = random.Random(seed), []
        for _ in range(count):
            vector = [round(draw.gauss(0, 1), 4) for _ in range(FEATURES)]
            lines.append(json.dumps({"features": vector, "label": LABELS[vector[0] * vector[1] > 0]}))
        found[f"{name}.vectors"] = ("\n".join(lines) + "\n").encode()
    return found


RECIPE = {
    "prepare": {"epochs": 20, "rate": 1e-2},
    "quantize": {"scheme": "dynamic-int8"},
    "prune": {"axes": ["ffn"], "ratio": 0.5, "multiple": 8, "calibration_rows": 64},
    "round_small": {"share": 0.2},
    "distill": {"epochs": 5, "rate": 5e-3},
}
