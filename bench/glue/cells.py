"""The runs of the table: originals, recipes on them, and recipes with one part of the method changed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import engine
from bench.glue import compare, records
from bench.glue.datasets import Set
from bench.glue.records import Record
from compression.schema.job_spec import Data
from compression.schema.recipe.augment import Augment, Synonyms
from compression.schema.recipe.presets import PRESETS, merged, preset
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.stages import Stage
from compression.system.environment import environment

RATES = (2e-5, 5e-5, 1e-4)
EPOCHS = 5
"""An original is the best on validation of these rates, the best epoch of each."""

Change = Callable[[Recipe], Recipe]


def without(**parts: Any) -> Change:
    """Leave out or exchange whole parts of a recipe, for example prune=None."""
    return lambda recipe: recipe.model_copy(update=parts)


def patched(**changes: Any) -> Change:
    """Change keys at any depth, for example patched(quantize={"qat": None})."""
    return lambda recipe: Recipe.model_validate(merged(recipe, changes))


LABELS_ONLY: dict[str, Any] = {
    "soft": 0.0,
    "hidden": 0.0,
    "attention": 0.0,
    "embedding": 0.0,
    "hard": 1.0,
    "weighting": "fixed",
    "teachers": {"seeds": 1},
    "general": None,
}
ABLATION: dict[str, tuple[str, Change | Stage]] = {
    "quantized only, no training": ("article", without(quantize=PRESETS["standard"][0].quantize, prune=None, distill=None)),
    "quantization-aware training only": ("article", "quantized"),
    "no quantization-aware training": ("article", patched(quantize={"qat": None})),
    "layers quantized by depth": ("article", patched(quantize={"qat": {"order": "depth"}})),
    "no recovery": ("article", patched(prune={"recovery": None})),
    "all layers recover at once": ("article", patched(prune={"recovery": {"shallow_first": False}})),
    "the same L2 throughout": ("article", patched(prune={"recovery": {"adapt_l2": False}})),
    "L1 of weights": ("article", patched(prune={"importance": "l1_weight"})),
    "no distillation": ("article", "pruned"),
    "labels only": ("article", patched(distill=LABELS_ONLY)),
    "no labels": ("article", patched(distill={"hard": 0.0})),
    "no hidden states": ("article", patched(distill={"hidden": 0.0, "general": {"hidden": 0.0}})),
    "no hidden states in the task phase": ("article", patched(distill={"hidden": 0.0})),
    "no attention": ("article", patched(distill={"attention": 0.0, "general": {"attention": 0.0}})),
    "no embedding loss": ("article", patched(distill={"embedding": 0.0, "general": {"embedding": 0.0}})),
    "one teacher": ("article", patched(distill={"teachers": {"seeds": 1}})),
    "no general phase": ("article", patched(distill={"general": None})),
    "no augmentation": ("article", patched(distill={"augment": None})),
    "standard without least squares": ("standard", patched(prune={"reconstruct": False})),
    "fixed weights": ("article", patched(distill={"weighting": "fixed"})),
}
"""Name → (preset, what is changed in it, or the stage of it that is the last)."""


ORIGINAL = "original"


@dataclass(frozen=True)
class Cell:
    """One set with one seed.

    digest: of the set's rows; unlabelled: texts for the general phase and their digest; folder: where its runs lie; kept: where
    their records lie.
    """

    set: Set
    data: Data
    digest: str
    unlabelled: tuple[Path, str]
    seed: int
    folder: Path
    kept: Path
    model: Path
    batch: int
    threads: int | None

    def record(self, name: str = ORIGINAL, *, run: bool = True, earlier: bool = False) -> Record | None:
        """Return the record of the original or of a recipe, from disk or by a run; None if `run` is False and there is none.

        earlier: accept a record by an earlier version of the preset.
        """
        recipes = list(self.original_recipes()) if name == ORIGINAL else [self.recipe(name)]
        rows = self.digest + (f" {self.unlabelled[1]}" if self._reads_more(recipes[0]) else "")
        key = records.key(rows, self.seed, self.batch, self.model)
        path = records.path_of(self.kept, name)
        found = records.find(path, key, recipes, earlier=earlier)
        if found is not None or not run:
            return found
        made = self._original(key) if name == ORIGINAL else self._compressed(name, key)
        made = made.model_copy(update={"asked": tuple(recipes)})
        return records.keep(path, made)

    def recipe(self, name: str) -> Recipe:
        """Return a recipe to run on the original: with this cell's seed and batch, and without preparation."""
        recipe = recipe_named(name, self.set)
        train = recipe.train.model_copy(update={"seed": self.seed, "batch": self.batch})
        prepare = recipe.prepare.model_copy(update={"epochs": 0})
        distill = recipe.distill
        if distill is not None and distill.teachers.seeds > 1:  # the originals of the other rates are the other teachers
            distill = distill.model_copy(update={"teachers": distill.teachers.model_copy(update={"seeds": 1})})
        return recipe.model_copy(update={"train": train, "prepare": prepare, "distill": distill})

    def teachers(self, name: str) -> list[Path]:
        """Return the originals that teach beside the best one, the better first: as many as the recipe has further seeds."""
        distill = recipe_named(name, self.set).distill
        further = distill.teachers.seeds - 1 if distill is not None else 0
        if further < 1:
            return []
        best = self.original()
        others = sorted(
            (run for run in self.originals() if run.folder != best.folder), key=lambda run: -run.validation["baseline"]
        )
        return [run.artifact("baseline-transformers-float32") for run in others[:further]]

    def original_recipes(self) -> Iterator[Recipe]:
        """Return the recipes that the original is the best of."""
        for rate in RATES:
            prepare, train = Prepare(epochs=EPOCHS, rate=rate), Train(seed=self.seed, batch=self.batch)
            yield Recipe(prepare=prepare, quantize=None, prune=None, distill=None, train=train)

    @staticmethod
    def _reads_more(recipe: Recipe) -> bool:
        return recipe.distill is not None and recipe.distill.general is not None

    def _spec(self, model: Path, recipe: Recipe) -> dict[str, Any]:
        data = self.data
        if self._reads_more(recipe):
            splits = {**data.splits, "unlabelled": (str(self.unlabelled[0]),)}
            data = data.model_copy(update={"splits": splits})
        return {"task": self.set.task, "model": str(model), "data": data, "recipe": recipe, "threads": self.threads}

    def originals(self) -> list[engine.Run]:
        """Tune at each rate."""
        return [self._tuned(recipe) for recipe in self.original_recipes()]

    def _tuned(self, recipe: Recipe) -> engine.Run:
        return engine.run(self.folder / f"original-{recipe.prepare.rate:g}", self._spec(self.model, recipe))

    def original(self) -> engine.Run:
        """Choose the original that is best on validation, of equals the first.

        Where the record tells which that was, only its rate is tuned again when its folder is gone. Raises SystemExit where
        that comes to another score: what is compressed would not be what the record answers for.
        """
        record = self.record(run=False)
        if record is None:
            return max(self.originals(), key=lambda run: run.validation["baseline"])
        run = self._tuned(record.recipe)
        if run.validation != record.validation:
            found, wanted = run.validation["baseline"], record.validation["baseline"]
            raise SystemExit(f"{run.folder}: tuned again, {found} on validation, not {wanted}; remove the record")
        return run

    def _original(self, key: str) -> Record:
        run = self.original()
        fp32 = run.artifact("baseline-onnx-float32")
        own, _ = compare.answers(compare.own_int8(fp32, self.folder / "own-int8"), self.test_rows)
        return self._recorded(key, run, fp32).model_copy(update={"own_int8": tuple(own.tolist())})

    def _compressed(self, name: str, key: str) -> Record:
        tuned = self.original().artifact("baseline-transformers-float32")
        spec = {**self._spec(tuned, self.recipe(name)), "teachers": tuple(map(str, self.teachers(name)))}
        whole, change = ABLATION.get(name, (name, None))
        # What differs in a later stage goes on from the preset's run, where that is done.
        after = self.folder / whole if whole != name and (self.folder / whole / "done.json").is_file() else None
        if isinstance(change, str):
            run = engine.run(self.folder / whole, spec, keep={"onnx"})
            row = next(row for row in run.report.rows if row.stage == change)
        else:
            run = engine.run(self.folder / name, spec, keep={"onnx"}, after=after)
            # The last stage's, whichever a job would ship: a table of the method must not show another where a score fell.
            row = run.report.rows[-1]
        return self._recorded(key, run, run.artifact(row.artifact))

    def _recorded(self, key: str, run: engine.Run, artifact: Path) -> Record:
        said, wanted = compare.answers(artifact, self.test_rows)
        report = run.report
        return Record(
            key=key,
            asked=(report.recipe,),
            recipe=report.recipe,
            baseline=report.rows[0],
            shipped=next(row for row in report.rows if row.artifact == artifact.name),
            validation=run.validation,
            answers=tuple(said.tolist()),
            wanted=tuple(wanted.tolist()),
            seconds=run.seconds,
            environment=environment(),
        )

    @property
    def test_rows(self) -> Path:
        """Return the file of test rows."""
        return Path(self.data.splits["test"][0])


AUGMENT = Augment(synonyms=Synonyms(source="embeddings"))
"""Augmentation that every machine has: a table must not depend on what is installed."""


def recipe_named(name: str, chosen: Set) -> Recipe:
    """Return a preset for a task, or one with one part changed. If it augments, it does so by AUGMENT."""
    whole, change = ABLATION.get(name, (name, name))
    found = preset(whole, chosen.task)
    if found.distill is not None and found.distill.augment is not None:
        found = found.model_copy(update={"distill": found.distill.model_copy(update={"augment": AUGMENT})})
    return found if isinstance(change, str) else change(found)
