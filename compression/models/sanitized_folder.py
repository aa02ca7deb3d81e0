"""What was sent becomes a folder that stock code opens: a GGUF file is unpacked, and no file names code of its own.

Authors of new architectures publish code beside the weights, and their config.json names it (`auto_map`). Stock classes are
opened here, and none of it is run; but whoever opened such a config with trust_remote_code would run it. So the name is gone
before anything reads the folder, and what is made of it does not have it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compression.models import gguf_unpack
from compression.models.architectures.families import architecture_of
from compression.models.files import gguf_model
from compression.schema.errors import UnsupportedArchitecture
from compression.schema.job_spec import Spec
from compression.system import durable_files

CODE = "auto_map"
"""The key that names code to run."""
FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
"""Settings that stock code reads from a folder, or that artifacts are shipped with."""


def sanitized_folder(folder: Path, place: Path) -> Path:
    """Return the folder that stock code opens a model from: `folder`, or `place`, made of it where it is not such a one.

    A GGUF file is unpacked once. Where a file names code, `place` has the same files (links), but for that.
    """
    if gguf_model.is_one(folder):
        if not place.exists():
            gguf_unpack.unpack(without_code(folder, place.with_name(f"{place.name}-sent")), place)
        return place
    return without_code(folder, place)


def without_code(folder: Path, place: Path) -> Path:
    """Return a folder whose files name no code: `folder`, or `place`, made of it.

    A folder of no supported family stays as it is: `load.read_config` refuses it, and says that its code is not run.
    """
    said = _naming_code(folder)
    if not said or not (gguf_model.is_one(folder) or _is_supported(folder)):
        return folder
    linked(folder, place, {name: json.dumps(_without(content), indent=2) + "\n" for name, content in said.items()})
    return place


def notes(spec: Spec, base: Path) -> Iterator[str]:
    """Say of which models that a job names the files name code, which is not run."""
    teachers = {f"models.teachers.{number}": folder for number, folder in enumerate(spec.teachers)}
    for name, folder in {"models.base": spec.model, "models.student": spec.student, **teachers}.items():
        if folder is not None and _naming_code(base / folder):
            yield f"{name} names code of its own ({CODE}): stock code opened it instead, and no file of the job names it."


def linked(folder: Path, target: Path, own: Mapping[str, str]) -> None:
    """Make `target` a folder of links to the files of `folder`, but for those of which `own` has the text."""
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that ended before, maybe on another model
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name not in own:
            (target / file.name).symlink_to(file.resolve())
    for name, text in own.items():
        durable_files.write_text(target / name, text)


def _naming_code(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what those of a folder's settings say that name code."""
    found = {}
    for name in FILES:
        try:
            said = json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # what cannot be read is refused where it is opened, if it is
        if isinstance(said, dict) and CODE in said:
            found[name] = said
    return found


def _without(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key != CODE}


def _is_supported(folder: Path) -> bool:
    try:
        said = json.loads((folder / "config.json").read_text("utf-8"))
        architecture_of(said if isinstance(said, dict) else {})
    except (OSError, ValueError, RecursionError, UnsupportedArchitecture):
        return False
    return True
