"""Opens an artifact in the runtime of its format. Torch-free."""

import json
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

from compression.modalities.scoring.base import Inputs, Runner
from compression.schema.artifact_formats import ARTIFACT_FORMATS, Kind
from compression.schema.report.operators import Operators

MOST_BYTES = 2 << 30  #: of weights: opening larger ones a second time, to count, takes too long


def open_artifact(kind: Kind, folder: Path, *, threads: int) -> Runner[Any]:
    """Open an artifact's folder in the stock runtime of its format, with a fixed number of threads."""
    # Imported by name when needed: one format's module may need packages that the other's process must not load.
    return cast(Runner[Any], resolve_name(ARTIFACT_FORMATS[kind].runtime)(folder, threads=threads))


def operators_of(kind: Kind, folder: Path, example: Inputs) -> Operators | None:
    """Count an artifact's operators in its file and as executed; None if its runtime does not tell, or it is too large.

    Opens the artifact once more: nothing else should have it open.
    """
    spec = ARTIFACT_FORMATS[kind]
    count = getattr(import_module(spec.runtime.partition(":")[0]), "operators", None)
    size = sum(path.stat().st_size for pattern in spec.weights for path in folder.glob(pattern))
    return cast(Operators, count(folder, example)) if count is not None and size <= MOST_BYTES else None


def config_of(folder: Path) -> dict[str, Any]:
    """Read the artifact's config.json."""
    return cast(dict[str, Any], json.loads((folder / "config.json").read_text("utf-8")))
