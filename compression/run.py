"""`python -m compression run`: the pipeline behind a pipe. Reads the specification, writes events, maps errors once."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import ValidationError

from compression import process
from compression.errors import CompressionError, InvalidSpec, OutOfMemory
from compression.pipeline import compress
from compression.recipe import Spec
from compression.report import Event, Failed

LONGEST = 4000
"""Characters of a cause or a remedy that an event carries."""


def main(path: Path, events_fd: int) -> int:
    """Run the job at `path`; return 0 where it finished and 2 after a `failed` event. Bugs escape."""
    channel = process.private_channel(events_fd)
    process.keep_freed_memory()
    with channel:
        try:
            for event in job(path):
                channel.write(event.model_dump_json() + "\n")
        except CompressionError as problem:
            channel.write(failed(problem).model_dump_json() + "\n")
            return 2
    return 0


def job(path: Path) -> Iterator[Event]:
    """Compress as the file says. Raises CompressionError; running out of memory is one."""
    spec = read_spec(path)
    try:
        yield from compress(spec, base=path.resolve().parent)
    except (MemoryError, torch.OutOfMemoryError) as problem:
        raise OutOfMemory(str(problem) or "the machine's memory did not suffice", param="recipe.train") from problem
    except RuntimeError as problem:
        # torch's CPU allocator has no exception of its own.
        if "can't allocate memory" not in str(problem):
            raise
        raise OutOfMemory(str(problem), param="recipe.train") from problem


def read_spec(path: Path) -> Spec:
    """Read a specification. Raises InvalidSpec with the path of the first field that is wrong."""
    try:
        return Spec.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as problem:
        errors = problem.errors(include_url=False, include_input=False)
        field = ".".join(map(str, errors[0]["loc"])) or None
        others = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InvalidSpec(f"{field or 'the specification'}: {errors[0]['msg']}{others}", param=field) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise InvalidSpec(f"{path.name} cannot be read as JSON: {problem}") from problem


def failed(problem: CompressionError) -> Failed:
    """Turn an error to the last event."""
    return Failed(code=problem.code, cause=problem.cause[:LONGEST], remedy=problem.remedy_text[:LONGEST], param=problem.param)
