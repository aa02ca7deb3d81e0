"""Turn an upload into a folder that stock code opens: unpack files of other formats, remove references to code.

A config.json may name its authors' code (`auto_map`). Lathe runs none of it, but a user who opens such a config with
trust_remote_code would. So the key is removed before anything reads the folder, and exported models do not contain it.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.models import gguf_unpack, onnx_unpack, stock_unpack, timm_unpack
from compression.models.architectures.families import architecture_of
from compression.models.files import gguf_model
from compression.models.files.timm_config import is_timm
from compression.models.validation.network import is_onnx
from compression.schema.errors import UnsupportedArchitecture
from compression.schema.job_spec import Spec
from compression.system import durable_files, sealed_folder

CODE = "auto_map"
"""The key that names code to run."""
FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
"""Settings files that stock code reads from a folder, or that artifacts contain."""


@dataclass(frozen=True)
class Unpacker:
    """A format that stock code does not open, and what turns it into one that it does."""

    is_one: Callable[[Path], bool]  #: of a folder
    unpack: Callable[[Path, Path, Sequence[str]], None]  #: a folder into another; the data's labels name outputs without names
    reads_labels: bool = True  #: whether what is unpacked depends on them


UNPACKERS = (
    Unpacker(gguf_model.is_one, lambda folder, place, _: gguf_unpack.unpack(folder, place), reads_labels=False),
    Unpacker(is_onnx, onnx_unpack.unpack),
    Unpacker(stock_unpack.is_one, stock_unpack.unpack),
    Unpacker(is_timm, timm_unpack.unpack),
)


def sanitized_folder(folder: Path, place: Path, labels: Sequence[str] = ()) -> Path:
    """Return the folder that stock code opens a model from: `folder`, or `place`, or one beside it for these labels, if it is
    unpacked or a file names code.

    labels: the data's; they name the outputs of a network that has no names for them, and are as many as it gets.
    """
    found = _unpacker(folder)
    if found is None:
        return without_code(folder, place)
    made = place
    if found.reads_labels and labels:  # another dataset of the job may have others
        made = place.with_name(f"{place.name}-{sealed_folder.text_digest(json.dumps([*labels]))[:12]}")
    if not made.exists():
        found.unpack(without_code(folder, place.with_name(f"{place.name}-sent")), made, labels)
    return made


def without_code(folder: Path, place: Path) -> Path:
    """Return a folder whose files name no code: `folder`, or `place`, made from it. Unsupported families stay to be refused."""
    contents = _naming_code(folder)
    if not contents or (_unpacker(folder) is None and not _is_supported(folder)):
        return folder
    kept = {name: {key: value for key, value in content.items() if key != CODE} for name, content in contents.items()}
    linked(folder, place, {name: json.dumps(content, indent=2) + "\n" for name, content in kept.items()})
    return place


def notes(spec: Spec, base: Path) -> Iterator[str]:
    """Yield a note for each of a job's models whose files name code, which is not run."""
    teachers = {f"models.teachers.{number}": folder for number, folder in enumerate(spec.teachers)}
    for name, folder in {"models.base": spec.model, "models.student": spec.student, **teachers}.items():
        if folder is not None and _naming_code(base / folder):
            yield f"{name} names code of its own ({CODE}): stock code opened it instead, and no file of the job names it."


def linked(folder: Path, target: Path, own: Mapping[str, str]) -> None:
    """Make `target` a folder of links to the files of `folder`; files in `own` get that text instead."""
    shutil.rmtree(target, ignore_errors=True)  # left by an earlier attempt, maybe on another model
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name not in own:
            (target / file.name).symlink_to(file.resolve())
    for name, text in own.items():
        durable_files.write_text(target / name, text)


def _unpacker(folder: Path) -> Unpacker | None:
    return next((unpacker for unpacker in UNPACKERS if unpacker.is_one(folder)), None)


def _naming_code(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the contents of those settings files in a folder that name code."""
    return {name: content for name in FILES if CODE in (content := _read(folder / name))}


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty if unreadable: it is refused when it is opened, if it is opened at all."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_supported(folder: Path) -> bool:
    try:
        architecture_of(_read(folder / "config.json"))
    except UnsupportedArchitecture:
        return False
    return True
