"""Collects an artifact's provenance: model, licence, recipe, versions, and the command to repeat it."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.models.files import gguf_model
from compression.schema.errors import CompressionError
from compression.schema.file_names import WEIGHTS
from compression.schema.job_spec import Columns, DatasetSpec, Spec
from compression.schema.recipe.recipe import Evaluate, Recipe, Targets
from compression.system.environment import environment
from compression.system.sealed_folder import code_version, known_digest

LARGEST_TEXT = 1 << 20  #: bytes; a larger README, licence or config is not read
LICENSE_NAME = re.compile(r"(licen[cs]e|notice|copying)([_-][A-Za-z0-9_-]*)?(\.(txt|md|rst))?", re.IGNORECASE)
SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
LICENSE_TEXTS: tuple[tuple[str, str], ...] = (
    (r"Apache License\s+Version 2\.0", "apache-2.0"),
    (r"MIT License|Permission is hereby granted, free of charge", "mit"),
    (r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3", "agpl-3.0"),
    (r"GNU GENERAL PUBLIC LICENSE\s+Version 3", "gpl-3.0"),
    (r"Neither the name of .{1,200} may be used to endorse", "bsd-3-clause"),
)
"""Pattern in the text of a licence, and the licence's name on the hub."""
MOST_FILES = 24  #: number of input files that a card lists; few models have more shards


@dataclass(frozen=True)
class InputFile:
    """An input file of the job, and its digest."""

    what: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Origin:
    """How an artifact was made, for its card. license, base: None if the uploaded model does not state it."""

    license: str | None
    stated_in: str | None
    base: str | None
    licenses: tuple[Path, ...]
    recipe: Recipe
    command: str
    sent: tuple[InputFile, ...]
    versions: dict[str, str]
    job: str | None = None  #: id of the job; None if the engine was run by hand

    @classmethod
    def of(cls, spec: Spec, base: Path) -> "Origin":
        """Read the provenance of a job's inputs. base: the folder that the spec's paths are relative to."""
        folder = base / spec.model
        (name, stated_in), name_on_hub = license_of(folder), _config(folder).get("_name_or_path")  # a local path is no name
        return cls(
            license=name,
            stated_in=stated_in,
            base=name_on_hub if isinstance(name_on_hub, str) and HUB_NAME.fullmatch(name_on_hub) else None,
            licenses=tuple(_license_files(folder)),
            recipe=spec.recipe,
            command=command(spec),
            sent=tuple(_sent(spec, base)),
            versions={"lathe": code_version(), **environment()},
            job=spec.job,
        )


def license_of(folder: Path) -> tuple[str | None, str | None]:
    """Return (the model's licence by its hub name, the file that states it): README, config, GGUF keys, licence text."""
    for stated, file in _stated_licenses(folder):
        if isinstance(stated, str) and SPDX.fullmatch(stated):
            return stated.lower(), file
    for path in _license_files(folder):
        text = _text(path)
        for pattern, name in LICENSE_TEXTS:
            if re.search(pattern, text, re.DOTALL):
                return name, path.name
    return None, None


def command(spec: Spec) -> str:
    """Return the command that runs the job again with the artifact's recipe.json; MODEL and DATA stand for the uploads."""
    words = ["lathe", "submit", "--model", "MODEL"]
    for number in range(len(spec.asked)):
        words += ["--data", "DATA" if len(spec.asked) == 1 else f"DATA_{number + 1}"]
    tasks = [part.task for part in spec.asked]
    for task in tasks if len(set(tasks)) > 1 else tasks[:1]:
        words += ["--task", task]
    words += ["--student", "STUDENT"] if spec.student is not None else []
    for number in range(len(spec.teachers)):
        words += ["--teacher", f"TEACHER_{number + 1}"]
    words += ["--recipe", "recipe.json"]
    for option, given, usual in (("--target", spec.targets, Targets()), ("--evaluate", spec.evaluate, Evaluate())):
        for key, value in given.model_dump(mode="json").items():
            if value != getattr(usual, key):
                words += [option, f"{key}={_written(value)}"]
    for key, value in _columns(spec.asked).items():
        words += ["--column", f"{key}={value}"]
    return shlex.join([*words, "--wait"])


def _written(value: object) -> str:
    """Return a value as `lathe` reads it: as JSON, or as text where that is none."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)


def _columns(parts: tuple[DatasetSpec, ...]) -> dict[str, str]:
    """Return the columns with other than the default names. One command names them for all of its datasets."""
    usual = Columns().model_dump()
    return {
        key: value for part in parts for key, value in part.data.columns.model_dump().items() if value not in (None, usual[key])
    }


def _sent(spec: Spec, base: Path) -> list[InputFile]:
    weights = sorted(path for path in (base / spec.model).iterdir() if path.suffix in WEIGHTS or path.name == "config.json")
    found = [InputFile("model", path.name, known_digest(path)) for path in weights]
    for part in spec.asked:
        for split, files in part.data.splits.items():
            what = f"{part.name} {split}".strip()
            found += [InputFile(what, Path(file).name, known_digest(base / file)) for file in files]
    return found


def _license_files(folder: Path) -> list[Path]:
    named = (path for path in folder.iterdir() if LICENSE_NAME.fullmatch(path.name))
    return sorted(path for path in named if path.is_file() and path.stat().st_size <= LARGEST_TEXT)


def _stated_licenses(folder: Path) -> Iterator[tuple[Any, str]]:
    """Yield (what a file names as the licence, the file)."""
    front = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", _text(folder / "README.md"), re.DOTALL)
    if front and (stated := re.search(r"^license:\s*['\"]?([^\s'\"#]+)", front[1], re.MULTILINE)):
        yield stated[1], "README.md"
    yield _config(folder).get("license"), "config.json"
    if gguf_model.is_one(folder):
        with suppress(CompressionError):  # a damaged file is refused when it is opened
            path, content = gguf_model.read_model(folder)
            yield content.metadata.get("general.license"), path.name


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(folder / "config.json") or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > LARGEST_TEXT:
        return ""
    return path.read_text("utf-8", errors="replace")
