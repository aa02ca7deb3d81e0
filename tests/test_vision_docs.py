"""The examples of docs/vision.md, run as they are printed, and that the page names what there is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compression.models.architectures.stock_networks import STOCK_NETWORKS
from compression.models.files.preprocessor_config import PROCESSORS
from compression.models.files.timm_config import SETTINGS
from compression.models.networks.onnx_reading.model_file import OPSETS
from compression.schema.recipe.presets import OF_IMAGES
from compression.schema.recipe.views import Views
from compression.schema.tasks import TASKS
from tests.conftest import ROOT, Service
from tests.support.images import encoded, pixels
from tests.support.printed import as_script, blocks_of
from tests.support.saying import says

TEXT = (ROOT / "docs/vision.md").read_text(encoding="utf-8")
CLASSES = ("cat", "dog")
MINE = """
import torch
from torch import nn


def layer(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = layer(8, 16), layer(16, 8)

    def forward(self, maps):
        return maps + self.outer(self.inner(maps))


torch.manual_seed(0)
model = nn.Sequential(layer(3, 8, 4), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
"""
"""The user's own network."""


def write_photos(place: Path) -> None:
    for split, count, offset in (("train", 64, 0), ("validation", 24, 1000), ("test", 24, 2000)):
        for number in range(count):
            path = place / split / CLASSES[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(pixels(number % 2, offset + number, 36)))


@pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="no curl here: make setup-system")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_examples_lead_from_a_network_to_answers_of_the_download(service: Service, tmp_path: Path) -> None:
    service.start_workers("jobs", "checks", "keeper")
    here = tmp_path / "here"
    write_photos(here / "photos")
    (here / "mine.py").write_text(MINE)
    env = {
        **os.environ,
        "LATHE_URL": service.url,
        "LATHE_KEY": service.database.key,
        "LATHE_HOME": str(tmp_path / "nothing"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(here),
    }
    command = ["bash", "-c", as_script(blocks_of(TEXT), here)]
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + service.log("jobs")
    assert re.findall(r"^(?:mdl|dat)_\w+ is (\w+)$", done.stderr, re.MULTILINE) == ["ready", "ready"]
    before, after = map(int, re.findall(r"^(\d+)$", done.stdout, re.MULTILINE)[:2])
    assert after < 0.9 * before
    says(done.stdout, "Multiply-adds: ", "Nothing was submitted", "distilled", "small/")
    assert done.stdout.splitlines()[-1] in CLASSES, "the card's own code answered"


def row_of(key: str) -> str:
    return next(line for line in TEXT.splitlines() if line.startswith(f"| `{key}`"))


def test_the_page_names_what_is_taken_and_what_may_be_asked() -> None:
    task, lower = TASKS["image-classification"], TEXT.replace(" ", "").lower()
    presets = TEXT.split("| preset | cut of")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", presets, re.MULTILINE)) == set(OF_IMAGES)
    says(row_of("train.views"), *(f"`{name}`" for name in Views.model_fields))
    says(row_of("evaluate.metric"), *(f"`{name}`" for name in task.metrics))
    says(TEXT, *(f"| `{name}` |" for name in task.formats), f"operator set {OPSETS[0]} to {OPSETS[-1]},")
    says(TEXT, *(f"`{name}`" for name in SETTINGS if not name.endswith("_rate")))
    says(lower, *(stock.stem.lower() for stock in STOCK_NETWORKS.values()))
    says(lower, *(re.sub(r"(V\d)?ImageProcessor$", "'s", name).lower() for name in PROCESSORS))
