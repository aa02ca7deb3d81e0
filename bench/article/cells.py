"""What is run: originals, recipes on them, and the recipes with one part of the method changed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.article import engine
from bench.article.glue import Set
from compression.recipe import PRESETS, Data, Prepare, Recipe, Train, preset

RATES = (2e-5, 5e-5, 1e-4)
EPOCHS = 5
"""An original is the best on validation of these rates, the best epoch of each."""

Change = Callable[[Recipe], Recipe]


def without(**parts: Any) -> Change:
    """Leave out or exchange whole parts of a recipe, for example prune=None."""
    return lambda recipe: recipe.model_copy(update=parts)


def within(part: str, **changes: Any) -> Change:
    """Change keys of one part, for example within("quantize", qat=None)."""

    def change(recipe: Recipe) -> Recipe:
        found = getattr(recipe, part)
        checked = type(found).model_validate({**found.model_dump(), **changes})
        return recipe.model_copy(update={part: checked})

    return change


ABLATION: dict[str, tuple[str, Change]] = {
    "quantized only, no training": ("article", without(quantize=PRESETS["standard"][0].quantize, prune=None, distill=None)),
    "quantization-aware training only": ("article", without(prune=None, distill=None)),
    "no quantization-aware training": ("article", within("quantize", qat=None)),
    "no recovery": ("article", within("prune", recovery=None)),
    "L1 of weights": ("article", within("prune", importance="l1_weight")),
    "no distillation": ("article", without(distill=None)),
    "labels only": ("article", within("distill", soft=0.0, hidden=0.0, attention=0.0, hard=1.0)),
    "no hidden states": ("article", within("distill", hidden=0.0)),
    "no attention": ("article", within("distill", attention=0.0)),
}
"""Name → (preset, what is changed in it)."""


@dataclass(frozen=True)
class Cell:
    """One set with one seed."""

    set: Set
    data: Data
    seed: int
    folder: Path
    model: Path
    batch: int
    threads: int | None

    def spec(self, model: Path, recipe: Recipe) -> dict[str, Any]:
        """Say what the engine shall do."""
        train = recipe.train.model_copy(update={"seed": self.seed, "batch": self.batch})
        return {
            "task": self.set.task,
            "model": str(model),
            "data": self.data,
            "recipe": recipe.model_copy(update={"train": train}),
            "threads": self.threads,
        }

    def originals(self) -> Iterator[engine.Run]:
        """Tune the original at each rate."""
        for rate in RATES:
            prepare = Prepare(epochs=EPOCHS, rate=rate)
            recipe = Recipe(prepare=prepare, quantize=None, prune=None, distill=None, train=Train())
            yield engine.run(self.folder / f"original-{rate:g}", self.spec(self.model, recipe))

    def original(self) -> engine.Run:
        """Choose the best on validation; of equals the first."""
        return max(self.originals(), key=lambda run: run.validation["baseline"])

    def compressed(self, name: str, recipe: Recipe) -> engine.Run:
        """Run a recipe on the original as it was tuned: every recipe starts from the same model."""
        tuned = self.original().artifact("baseline-transformers-float32")
        ready = recipe.model_copy(update={"prepare": recipe.prepare.model_copy(update={"epochs": 0})})
        return engine.run(self.folder / name, self.spec(tuned, ready), keep={"onnx"})

    @property
    def test_rows(self) -> Path:
        """The rows that the report is about."""
        return Path(self.data.splits["test"][0])


def recipe_named(name: str, chosen: Set) -> Recipe:
    """Find a preset as it is for a task, or one with one part changed."""
    if name in PRESETS:
        return preset(name, chosen.task)
    whole, change = ABLATION[name]
    return change(preset(whole, chosen.task))
