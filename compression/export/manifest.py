"""Writes an artifact's before.json, recipe, licence, and manifest of all files."""

import json
import shutil
from pathlib import Path

from compression.export.provenance import Origin
from compression.schema.report.before import Before
from compression.schema.report.report import File
from compression.system.sealed_folder import file_in, list_files


def write_before(before: Before, folder: Path) -> None:
    """Write before.json."""
    (folder / "before.json").write_text(as_json(before.model_dump(mode="json")), "utf-8")


def write_origin(origin: Origin, folder: Path) -> None:
    """Write the whole recipe beside the weights, and copy the model's licence files."""
    (folder / "recipe.json").write_text(as_json(origin.recipe.model_dump(mode="json")), "utf-8")
    for path in origin.licenses:
        shutil.copyfile(path, folder / path.name)


def write_manifest(folder: Path) -> tuple[File, ...]:
    """List every file with its size and sha256 in manifest.json; return the list, the manifest included."""
    files, manifest = list_files(folder), folder / "manifest.json"
    manifest.write_text(as_json({"files": [file.model_dump() for file in files]}), "utf-8")
    return (*files, file_in(folder, manifest))


def as_json(value: object) -> str:
    """Return a value as indented JSON that ends with a line feed."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
