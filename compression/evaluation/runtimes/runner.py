"""Opens an artifact in the runtime of its kind. Torch-free."""

import importlib
import json
from pathlib import Path
from typing import Any, Literal

from compression.modalities.scoring.base import Runner

Kind = Literal["onnx", "transformers"]


def open_artifact(kind: Kind, folder: Path, *, threads: int) -> Runner[Any]:
    """Open an artifact's folder in the stock runtime of its kind, with a fixed number of threads."""
    # Imported by name when needed: one kind's module may need packages that the other kind's process must not load.
    module = importlib.import_module(f"compression.evaluation.runtimes.{kind}")
    runner: Runner[Any] = module.open_folder(folder, threads=threads)
    return runner


def config_of(folder: Path) -> dict[str, Any]:
    """Read the artifact's config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config
