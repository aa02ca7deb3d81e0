"""The rows of the table of CIFAR-10: recipes on the two ResNets, each with three seeds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import engine
from bench.vision import compare, records
from bench.vision.cifar_resnet import CLASSES
from bench.vision.records import Record
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
class Kind:
    """A row: a network, a recipe and what it is to reach."""

    depth: int
    recipe: Recipe
    about: str


KINDS = {
    "resnet20-less": Kind(
        20, _changed("standard", prune={"ratio": {"channels": 0.3}, "target_flops": 0.4}), "40 % fewer multiply-adds"
    ),
    "resnet56-half": Kind(
        56,
        _changed("standard", prune={"ratio": {"layers": 0.3, "channels": 0.3}, "target_flops": round(1 - 1 / 2.1, 4)}),
        "2.1 times fewer multiply-adds",
    ),
    # Three originals cannot be had of one set of weights: one teaches.
    "resnet56-article": Kind(56, _changed("article", distill={"teachers": {"seeds": 1}}), "the published method"),
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
    def recipe(self) -> Recipe:
        """Return the row's recipe with this cell's seed."""
        found = KINDS[self.name].recipe
        return found.model_copy(update={"train": found.train.model_copy(update={"seed": self.seed})})

    def record(self, *, run: bool = True, threads: int | None = None) -> Record | None:
        """Return the record, from disk or by a run; None if `run` is False and there is none."""
        key = records.digest(self.model, self.data)
        path = self.kept / f"{self.name}-{self.seed}.json"
        found = records.find(path, key, self.recipe)
        return found if found is not None or not run else records.keep(path, self._run(key, threads))

    def artifact(self, stage: str) -> Path | None:
        """Return the ONNX file of a stage of this cell's run; None where the run is not on this machine."""
        found = sorted((self.folder / "artifacts").glob(f"{stage}-onnx-*/model.onnx"))
        return found[0] if found else None

    def _run(self, key: str, threads: int | None) -> Record:
        splits = {split: (str(self.data / f"{split}.npz"),) for split in ("train", "validation", "test")}
        spec = {"task": TASK, "model": str(self.model), "data": Data(format="npz", splits=splits), "recipe": self.recipe}
        done = engine.run(self.folder, {**spec, "threads": threads}, keep={"onnx"})
        images, wanted = compare.rows_of(self.data / "test.npz", CLASSES)
        stages = {
            row.stage: records.answered(compare.answers(done.artifact(row.artifact) / "model.onnx", images), row)
            for row in done.report.rows
        }
        return Record(
            key=key,
            recipe=self.recipe,
            wanted=tuple(wanted),
            stages=stages,
            validation=done.validation,
            seconds=round(done.seconds, 1),
            environment=environment(),
            revision=engine.revision(),
        )
