"""The rows of the table: recipes on CIFAR-10's two ResNets, each with three seeds, and on EfficientNet-Lite0, with one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import engine
from bench.vision import compare, lite0, records
from bench.vision.cifar_resnet import CLASSES
from bench.vision.compare import Floats, Pixels
from bench.vision.records import Answered, Record
from compression.schema.job_spec import Data
from compression.schema.recipe.presets import merged, preset
from compression.schema.recipe.recipe import Recipe
from compression.system.environment import environment

TASK = "image-classification"
TRAINED: dict[str, Any] = {"prepare": {"epochs": 0}}
"""The networks come with their trained weights."""


def _changed(name: str, **changes: Any) -> Recipe:
    return Recipe.model_validate(merged(preset(name, TASK), TRAINED | changes))


@dataclass(frozen=True)
class Network:
    """What a row compresses. depth: of a ResNet of CIFAR-10; others than Lathe compress only these."""

    name: str
    size: int = 32
    classes: tuple[str, ...] = CLASSES
    inputs: Callable[[Pixels], Floats] = compare.normalized
    depth: int | None = None


RESNET20, RESNET56 = (Network(f"resnet{depth}", depth=depth) for depth in (20, 56))
LITE0 = Network("efficientnet-lite0", lite0.SIZE, lite0.LABELS, lite0.inputs)


@dataclass(frozen=True)
class Kind:
    """A row: a network, a recipe, what it is to reach, and the most seeds that it is run with."""

    network: Network
    recipe: Recipe
    about: str
    seeds: int = 3


KINDS = {
    "resnet20-less": Kind(
        RESNET20,
        # By rows held out of train: widths of any number, so exactly 40 %, and longer training follow the original closer.
        _changed(
            "standard",
            prune={"ratio": {"layers": 0.3, "channels": 0.3}, "target_flops": 0.4, "multiple": 1},
            distill={"epochs": 40},
        ),
        "40 % fewer multiply-adds",
    ),
    "resnet56-half": Kind(
        RESNET56,
        _changed("standard", prune={"ratio": {"layers": 0.3, "channels": 0.3}, "target_flops": round(1 - 1 / 2.1, 4)}),
        "2.1 times fewer multiply-adds",
    ),
    # Three originals cannot be had of one set of weights: one teaches.
    "resnet56-article": Kind(RESNET56, _changed("article", distill={"teachers": {"seeds": 1}}), "the published method"),
    # Short, because an epoch takes minutes. The labels are the original's answers, of which its outputs say more.
    "efficientnet-lite0": Kind(
        LITE0,
        _changed(
            "standard",
            # By validation: of its 500 rows int8 alone agrees on 79.6 % by default, and on 80.8 % within ±127.
            quantize={"calibration_rows": 128, "portable": False},
            prune={"ratio": {"channels": 0.3}, "calibration_rows": 256, "sensitivity": False},
            distill={"epochs": 3, "hard": 0.0},
            # A shift by as much of the image as of the ResNets' rows.
            train={"batch": 32, "views": {"crop": 28}},
        ),
        "30 % of its channels less",
        seeds=1,
    ),
}


@dataclass(frozen=True)
class Cell:
    """One row with one seed. model, data: folders; folder: where its run lies; kept: where its record lies."""

    name: str
    seed: int
    model: Path
    data: Path
    folder: Path
    kept: Path

    @property
    def kind(self) -> Kind:
        """Return the row."""
        return KINDS[self.name]

    @property
    def recipe(self) -> Recipe:
        """Return the row's recipe with this cell's seed."""
        found = self.kind.recipe
        return found.model_copy(update={"train": found.train.model_copy(update={"seed": self.seed})})

    @property
    def key(self) -> str | None:
        """Return the digest of the model's and the data's files; None where they are not on this machine."""
        return records.digest(self.model, self.data) if self.model.is_dir() and self.data.is_dir() else None

    def record(self, *, run: bool = True, threads: int | None = None) -> Record | None:
        """Return the record, from disk or by a run; None if `run` is False and there is none."""
        path = self.kept / f"{self.name}-{self.seed}.json"
        found = records.find(path, self.key, self.recipe)
        return found if found is not None or not run else records.keep(path, self._run(threads))

    def artifact(self, stage: str) -> Path | None:
        """Return the ONNX file of a stage of this cell's run; None where the run is not on this machine."""
        found = sorted((self.folder / "artifacts").glob(f"{stage}-onnx-*/model.onnx"))
        return found[0] if found else None

    def _run(self, threads: int | None) -> Record:
        splits = {split: (str(self.data / f"{split}.npz"),) for split in ("train", "validation", "test")}
        spec = {"task": TASK, "model": str(self.model), "data": Data(format="npz", splits=splits), "recipe": self.recipe}
        done = engine.run(self.folder, {**spec, "threads": threads}, keep={"onnx"})
        images, wanted = compare.rows_of(self.data / "test.npz", self.kind.network.classes)
        stages: dict[str, Answered] = {}
        for row in done.report.rows:
            file = done.artifact(row.artifact) / "model.onnx"
            stages[row.stage] = records.answered(compare.answers(file, images, inputs=self.kind.network.inputs), row)
        about = self.data / "about.txt"
        return Record(
            key=records.digest(self.model, self.data),
            recipe=self.recipe,
            wanted=tuple(wanted),
            stages=stages,
            validation=done.validation,
            seconds=round(done.seconds, 1),
            environment=environment(),
            revision=engine.revision(),
            data=about.read_text("utf-8") if about.is_file() else "",
        )
