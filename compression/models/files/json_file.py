"""Read an untrusted JSON file: bounded in size and depth, no duplicate keys, no NaN."""

import json
import os
from pathlib import Path
from typing import Any

DEEPEST = 32


class BadJson(ValueError):
    """The reason why a file is not the JSON object that it should be."""


def read_object(data: bytes) -> dict[str, Any]:
    """Parse bytes that must be one JSON object. Raises BadJson."""
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as problem:
        raise BadJson(str(problem)) from problem
    if not isinstance(found, dict):
        raise BadJson("it is not a JSON object")
    level: list[Any] = [found]
    for _ in range(DEEPEST):
        level = [child for value in level for child in _children(value)]
        if not level:
            return found
    raise BadJson(f"it is nested more than {DEEPEST} deep")


def read_file(path: Path, most: int) -> dict[str, Any]:
    """Read a JSON object of at most `most` bytes from a file. Raises BadJson and OSError."""
    with path.open("rb") as stream:
        # Not `most` bytes at once: a read allocates as many bytes as it requests.
        data = stream.read(min(os.fstat(stream.fileno()).st_size, most) + 1)
    if len(data) > most:
        raise BadJson(f"it is larger than {most:,} bytes")
    return read_object(data)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two parsers may keep different values of a duplicate key; the value that is checked must be the one that is loaded.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadJson("it names a key twice")
    return found


def _refuse(constant: str) -> Any:
    raise BadJson(f"it holds {constant}, which is not JSON")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
