"""Writes what a bench found as one JSON file, with the date, the commit and the machine."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.engine import revision
from compression.system.environment import environment


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a record beside its place, then rename it there: a process that is killed leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"date": datetime.now(UTC).date().isoformat(), "revision": revision(), "environment": environment()}
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({**facts, **made}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """Return a record, or None if there is none."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def left_to_machine(recipe: Any) -> Any:
    """Return a recipe as it was kept, with `distill.spill_gib` left to the machine, as it now is by default: where teachers'
    states lie changes no more than their rounding.
    """
    if isinstance(recipe, dict) and (distill := recipe.get("distill")) and distill.get("spill_gib") == 0.0:
        return {**recipe, "distill": {key: value for key, value in distill.items() if key != "spill_gib"}}
    return recipe
