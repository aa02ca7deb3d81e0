"""Folders whose files are listed with size and digest, and texts stored with their own digest."""

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compression.schema.report.report import File

STATE = "state.json"


class UnusableCheckpoint(Exception):
    """A checkpoint that a job cannot resume from, and why. It costs only time: the stage runs again."""


def code_version() -> str:
    """Return the version of the code, or "not installed" if it runs from its folder."""
    try:
        return version("lathe")
    except PackageNotFoundError:
        return "not installed"


def digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_digest(path: Path) -> str:
    """Return the sha256 of an input, computed once per process: inputs do not change while a job runs."""
    facts = path.stat()
    return _known_digest(path, facts.st_size, facts.st_mtime_ns)


@cache
def _known_digest(path: Path, size: int, changed: int) -> str:  # noqa: ARG001
    return digest(path)


def file_in(folder: Path, path: Path) -> File:
    """Return a file's path within a folder, its size and its digest."""
    return File(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest(path))


def list_files(folder: Path) -> tuple[File, ...]:
    """List a folder's files with size and digest, by path."""
    return tuple(file_in(folder, path) for path in sorted(folder.rglob("*")) if path.is_file())


def seal(body: str) -> str:
    """Return a text as JSON with its digest."""
    return json.dumps({"sha256": text_digest(body), "body": body})


def unseal(path: Path) -> str:
    """Read a text that `seal` wrapped. Raises UnusableCheckpoint if it does not match its digest."""
    return unseal_text(path.read_text(encoding="utf-8"), f"{path.parent.name}/{path.name}")


def unseal_text(wrapped: str, name: str) -> str:
    """Return what `seal` wrapped. Raises UnusableCheckpoint with this name if it does not match its digest."""
    found = json.loads(wrapped)
    body: str = found["body"]
    if text_digest(body) != found["sha256"]:
        raise UnusableCheckpoint(f"{name} is damaged")
    return body


def verify_files(place: Path, files: tuple[File, ...]) -> None:
    """Compare a folder's files with their digests. Raises UnusableCheckpoint if one differs, OSError if one is missing."""
    for file in files:
        if digest(place / file.path) != file.sha256:
            raise UnusableCheckpoint(f"{place.name}/{file.path} is not what was written")


def text_digest(text: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
