"""Opens an artifact in the runtime of its format. Torch-free."""

import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

from compression.modalities.scoring.base import Runner
from compression.schema.artifact_formats import ARTIFACT_FORMATS, Kind


def open_artifact(kind: Kind, folder: Path, *, threads: int) -> Runner[Any]:
    """Open an artifact's folder in the stock runtime of its format, with a fixed number of threads."""
    # Imported by name when needed: one format's module may need packages that the other's process must not load.
    return cast(Runner[Any], resolve_name(ARTIFACT_FORMATS[kind].runtime)(folder, threads=threads))


def config_of(folder: Path) -> dict[str, Any]:
    """Read the artifact's config.json."""
    return cast(dict[str, Any], json.loads((folder / "config.json").read_text("utf-8")))
