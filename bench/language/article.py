"""The account's own recipe on a language model, every part of it on, and the record of its run."""

from pathlib import Path
from typing import Any

from bench import engine, record_file
from compression.schema.recipe.presets import preset
from compression.schema.recipe.recipe import Recipe

RECORDS = Path(__file__).parent / "records"
PREPARE = {"rate": 2e-5, "patience": 2}
"""Of the original's tuning: as in the preset for language models, since `article` has an encoder's."""
TRAIN = {"batch": 4, "max_length": 256}
"""Few articles are few rows: short ones, and few of them in a step, make steps enough to train with."""


def recipe_of(seed: int) -> Recipe:
    """Return the preset that cuts by the account's share of the parameters, tuned as a language model."""
    found = preset("published", "causal-lm")
    changed = {
        "prepare": found.prepare.model_copy(update=PREPARE),
        "train": found.train.model_copy(update={**TRAIN, "seed": seed}),
    }
    return found.model_copy(update=changed)


def path_of(name: str) -> Path:
    """Return the path of a run's record."""
    return RECORDS / f"{name}.json"


def keep(name: str, about: dict[str, Any], run: engine.Run) -> None:
    """Write a run's record: its recipe, and its rows with their notes, that tell what of each part was done."""
    rows = [row.model_dump(mode="json", exclude={"ranges"}) for row in run.report.rows]
    recipe = run.report.recipe.model_dump(mode="json")
    record_file.write(path_of(name), {**about, "seconds": run.seconds, "recipe": recipe, "rows": rows})
