"""Runs the jobs of a part on MiniLM, each in a folder of its own that the next call goes on from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import engine
from bench.account.job import digest_of
from bench.examples import model_folder
from bench.glue import compare
from bench.preparation import datasets
from bench.preparation.datasets import Prepared
from bench.targets.steps import Clock, Facts, Place
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Row, Score


@dataclass(frozen=True)
class Jobs:
    """Jobs on one set of rows. part: names the folder of their runs; more: further fields of a spec."""

    place: Place
    part: str
    data: Prepared
    more: Facts = field(default_factory=dict)

    @property
    def model(self) -> Path:
        """Return the folder of the encoder. Raises SystemExit if it was not fetched."""
        return model_folder("minilm", self.place.examples)

    def about(self, recipe: Recipe) -> Facts:
        """Return what the result of a recipe depends on."""
        return {"model": digest_of(self.model), "rows": self.data.digest, "recipe": recipe.model_dump(mode="json")}

    def folder(self, name: str) -> Path:
        """Return the folder of a job's run."""
        return self.place.folder / self.part / name

    def run(self, name: str, recipe: Recipe, clock: Clock, after: engine.Run | None = None) -> engine.Run:
        """Run a job, or return an earlier call's. after: a run whose stages and tables are taken over if they fit."""
        data = self.data
        spec: dict[str, Any] = {"task": data.task, "model": str(self.model), "data": data.data, "recipe": recipe}
        spec |= {"evaluate": data.evaluate, "threads": self.place.threads, **self.more}
        earlier = after.folder if after is not None else None
        return engine.run(self.folder(name), spec, keep={"onnx"}, after=earlier, minutes=clock.left())

    def answers(self, before: Path, after: Path) -> Facts:
        """Answer the rows of test by the files of the original and of what became of it, a row at a time, as JSON."""
        test = Path(self.data.data.splits["test"][0])
        (said, wanted), (small, _) = (compare.answers(artifact, test) for artifact in (before, after))
        each = {"before": said, "after": small, "wanted": wanted}
        return {side: np.round(values, 5).tolist() for side, values in each.items()}


def prepared(place: Place, name: str, most: int) -> Prepared:
    """Write a set's rows into the folder of runs, if they are not there. most: of train, with validation's."""
    return datasets.prepare(name, place.data, place.examples, place.folder / "data" / name, most)


def validated(row: Row) -> Score:
    """Return a row's score on validation. Raises SystemExit if it was not scored."""
    if not isinstance(row.validation, Score):
        raise SystemExit(f"{row.artifact} has no score on validation: {row.validation}")
    return row.validation
