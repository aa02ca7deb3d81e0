"""Records of runs on images, small enough for the repository: the table is printed from them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from bench.record_file import left_to_machine
from compression.schema.config import Config
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Row

ROOT = Path(__file__).parent / "records"


class Answered(Config):
    """One model's answers to the test images, a label each, at batch 1, and what its file costs."""

    answers: tuple[int, ...]
    bytes: int
    parameters: int | None
    multiply_adds: int | None


class Record(Config):
    """One job with one seed, or one baseline. stages: each stage's model, by its name."""

    key: Annotated[str, Field(description="Digest of the model's and the data's files.")]
    recipe: Annotated[Recipe | None, BeforeValidator(left_to_machine)] = None
    wanted: tuple[int, ...]
    stages: dict[str, Answered]
    validation: Annotated[dict[str, float], Field(default_factory=dict)]
    seconds: float
    environment: dict[str, str]
    revision: str = ""
    data: Annotated[str, Field(description="What the rows are, where that follows from the network.")] = ""


def digest(*places: Path) -> str:
    """Digest the files of folders."""
    found = hashlib.sha256()
    for path in sorted(path for place in places for path in place.iterdir() if path.is_file()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


def find(path: Path, key: str | None, recipe: Recipe | None) -> Record | None:
    """Return the record of exactly this work, or None; an unreadable one counts as none.

    key: None where the model and the data are not on this machine: then the recipe alone is compared.
    """
    try:
        record = Record.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValidationError):
        return None
    return record if key in (None, record.key) and record.recipe == recipe else None


def keep(path: Path, record: Record) -> Record:
    """Write a record beside its place, then rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(record.model_dump(mode="json"), separators=(",", ":")) + "\n", encoding="utf-8")
    beside.rename(path)
    return record


def answered(answers: Iterable[int], row: Row) -> Answered:
    """Return a row's costs with the answers of its file. Raises SystemExit where its operations are not counted."""
    if not isinstance(row.flops, int):
        raise SystemExit(f"{row.stage}: its operations are not counted: {row.flops}")
    # torch counts a multiplication and an addition as two.
    return Answered(answers=tuple(answers), bytes=row.size.bytes, parameters=row.parameters.total, multiply_adds=row.flops // 2)
