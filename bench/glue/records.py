"""Records of runs, small enough for the repository: the table is printed from them.

All of it takes more than a day of two cores. A record holds what was learned in a run, its answers to the test rows above all,
and what they depend on: the recipes that were asked for, and a digest of rows, seed, batch and model. Where that is the same,
the run need not be done again. Recipes are kept whole and compared as read: a key that was not there yet has its default.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from bench.record_file import left_to_machine
from compression.schema.config import Config
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Row
from compression.schema.schemes import SCHEMES

ROOT = Path(__file__).parent / "records"


def _as_it_was(recipe: Any) -> Any:
    """Read a recipe from before `quantize.portable` with its old meaning: weights up to ±127."""
    recipe = left_to_machine(recipe)
    quantize = recipe.get("quantize") if isinstance(recipe, dict) else None
    if not quantize or "portable" in quantize or not SCHEMES[quantize.get("scheme", "dynamic-int8")].rounds_activations:
        return recipe
    return {**recipe, "quantize": {**quantize, "portable": False}}


Stored = Annotated[Recipe, BeforeValidator(_as_it_was)]


class Record(Config):
    """One model on one set with one seed. Answers are label ids or values, a test row each, at batch 1."""

    key: Annotated[str, Field(description="Digest of rows, seed, batch and base model.")]
    asked: Annotated[tuple[Stored, ...], Field(description="What was run: of an original, a recipe for each rate.")]
    recipe: Annotated[Stored, Field(description="Of an original: that of the rate which was best on validation.")]
    baseline: Row
    shipped: Annotated[Row, Field(description="The last stage's row; of an original its baseline.")]
    validation: dict[str, float]
    answers: tuple[float, ...]
    wanted: tuple[float, ...]
    own_int8: Annotated[tuple[float, ...], Field(description="Of an original: what ONNX Runtime's own INT8 of it says.")] = ()
    seconds: float
    environment: dict[str, str]


def key(rows: str, seed: int, batch: int, model: Path) -> str:
    """Digest what a result depends on, except recipes. rows: digest of the set's files; model: folder of the base model."""
    digest = hashlib.sha256()
    digest.update(json.dumps({"rows": rows, "seed": seed, "batch": batch}, sort_keys=True).encode())
    for path in sorted(model.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def path_of(folder: Path, name: str) -> Path:
    """Return the path of a record in its cell's folder."""
    return folder / f"{name.replace(' ', '-').replace(',', '')}.json"


def find(path: Path, wanted: str, asked: Iterable[Recipe], *, earlier: bool = False) -> Record | None:
    """Return the record of exactly this work, or None; an unreadable one counts as none.

    earlier: accept one of the same rows, seed and model by an earlier version of the preset.
    """
    try:
        record = Record.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValidationError):
        return None
    return record if record.key == wanted and (earlier or record.asked == tuple(asked)) else None


def changed_keys(before: Any, after: Any, path: str = "") -> list[str]:
    """Return the keys in which two recipes, as JSON objects, differ."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else [path]
    return [
        key
        for name in sorted({*before, *after})
        for key in changed_keys(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    ]


def keep(path: Path, record: Record) -> Record:
    """Write a record beside its place, then rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    # Recipes with their defaults: those may change, and what was run would then be another recipe.
    whole = record.model_dump(mode="json", exclude={"asked", "recipe"}, exclude_defaults=True)
    recipes = record.model_dump(mode="json", include={"asked", "recipe"})
    beside.write_text(json.dumps(whole | recipes, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    beside.rename(path)
    return record
