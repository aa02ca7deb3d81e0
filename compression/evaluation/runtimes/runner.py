"""Opens an artifact in the runtime of its format. Torch-free."""

import json
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

from compression.modalities.scoring.base import Inputs, Runner
from compression.schema.artifact_formats import ARTIFACT_FORMATS, Kind
from compression.schema.errors import MissingFile
from compression.schema.manifest import MANIFEST
from compression.schema.report.operators import Operators

BEFORE = "before.json"  #: of an artifact: what it is, and how its job got there
NO_CARD = "{} does not run on GPUs here"
MOST_BYTES = 2 << 30  #: of weights: opening larger ones a second time, to count, takes too long


def find_artifact(folder: Path, file: str) -> Path:
    """Return the folder of the artifact: this one, or the only one below it. file: one that the folder of an artifact has.

    `lathe download --out small` writes small/NAME. Raises MissingFile.
    """
    if (folder / file).is_file():
        return folder
    below = sorted(path.parent for path in folder.glob(f"*/{file}")) if folder.is_dir() else []
    if len(below) != 1:
        cause = f"{folder} holds no artifact" if not below else f"{folder} holds {len(below)} artifacts"
        remedy = f"Name a folder that `lathe download` wrote, with {BEFORE} and {MANIFEST}"
        remedy += f", as {below[0]}." if below else "."
        raise MissingFile(cause, param=str(folder / file), remedy=remedy)
    return below[0]


def open_artifact(kind: Kind, folder: Path, *, threads: int) -> Runner[Any]:
    """Open an artifact's folder in the stock runtime of its format, with a fixed number of threads."""
    # Imported by name when needed: one format's module may need packages that the other's process must not load.
    return cast(Runner[Any], resolve_name(ARTIFACT_FORMATS[kind].runtime)(folder, threads=threads))


class NotOnCard(Exception):
    """An artifact is not scored on the GPU; its text says why."""


def lacking_on_card(kind: Kind) -> str | None:
    """Return what this machine lacks to score artifacts of a format on a GPU that it has, or None."""
    spec = ARTIFACT_FORMATS[kind]
    if spec.card is None:
        return NO_CARD.format(spec.runs_in)
    return cast(str | None, resolve_name(spec.card_lacks)()) if spec.card_lacks is not None else None


def open_on_card(kind: Kind, folder: Path, example: Inputs, *, threads: int) -> Runner[Any]:
    """Open an artifact's folder in the runtime of its format on the GPU. example: a batch that it can answer.

    Raises NotOnCard, and the runtime's own errors.
    """
    if (reason := lacking_on_card(kind)) is not None:
        raise NotOnCard(reason)
    return cast(Runner[Any], resolve_name(str(ARTIFACT_FORMATS[kind].card))(folder, example, threads=threads))


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
