"""What an artifact's folder tells of its making: before.json, the recipe, the licence, and the manifest over all files."""

import hashlib
import json
import shutil
from pathlib import Path

from compression.export.provenance import Origin
from compression.schema.report.before import Before
from compression.schema.report.report import File


def write_before(before: Before, folder: Path) -> None:
    """Write before.json."""
    (folder / "before.json").write_text(as_json(before.model_dump(mode="json")), "utf-8")


def write_origin(origin: Origin, folder: Path) -> None:
    """Put the whole recipe beside the weights, and the licence that the model came with."""
    (folder / "recipe.json").write_text(as_json(origin.recipe.model_dump(mode="json")), "utf-8")
    for path in origin.licenses:
        shutil.copyfile(path, folder / path.name)


def write_manifest(folder: Path) -> tuple[File, ...]:
    """List every file with its size and sha256 in manifest.json; return the list, the manifest included."""
    listed = [_file(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    manifest = folder / "manifest.json"
    manifest.write_text(as_json({"files": [file.model_dump() for file in listed]}), "utf-8")
    return (*listed, _file(manifest, folder))


def as_json(value: object) -> str:
    """Write a value as people read it, with a line feed at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _file(path: Path, folder: Path) -> File:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return File(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest)
