"""`python -m compression run`: reads a specification, runs the job, writes events, maps errors once."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from compression.engine import heartbeat
from compression.engine.pipeline import compress
from compression.schema.errors import CompressionError, InvalidSpec
from compression.schema.events import Event, Failed, Paused, Working
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import check_removed
from compression.system import failures, process
from compression.system.claimed_device import check_claimed_device
from compression.system.interrupts import Pause, never

LONGEST = 4000  #: maximum characters of a cause or a remedy in an event

PAUSED = 3  #: exit code after a `paused` event


def main(path: Path, events_fd: int, pauses: Callable[[], bool] | None = None) -> int:
    """Run the job at `path`; return 0 if it finished, 2 after a `failed` event, PAUSED after `paused`. Bugs raise."""
    channel = process.private_channel(events_fd)
    process.keep_freed_memory()

    def say(event: Event) -> None:
        channel.write(event.model_dump_json() + "\n")

    with channel:
        try:
            with heartbeat.heartbeat(lambda: say(Working())):
                for event in job(path, pauses or never):
                    say(event)
        except Pause:
            say(Paused())
            return PAUSED
        except CompressionError as problem:
            cause, remedy = problem.cause[:LONGEST], problem.remedy_text[:LONGEST]
            say(Failed(code=problem.code, cause=cause, remedy=remedy, param=problem.param))
            return 2
    return 0


def job(path: Path, pause_asked: Callable[[], bool] = never) -> Iterator[Event]:
    """Run the job in the file; yield its events. Raises CompressionError, also for known failures of the machine, and Pause."""
    spec = read_spec(path)
    check_claimed_device(spec.device, spec.recipe.train.devices)
    try:
        yield from compress(spec, path.resolve().parent, pause_asked)
    except Exception as problem:  # libraries raise any type, and loaders report it as an error of the user's files
        found = failures.typed(problem)
        if found is None or found is problem:
            raise
        raise found from problem


def read_spec(path: Path) -> Spec:
    """Read a specification. Raises InvalidSpec with the path of the first wrong or removed field."""
    try:
        spec = Spec.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as problem:
        errors = problem.errors(include_url=False, include_input=False)
        field = ".".join(map(str, errors[0]["loc"])) or None
        others = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InvalidSpec(f"{field or 'the specification'}: {errors[0]['msg']}{others}", param=field) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise InvalidSpec(f"{path.name} cannot be read as JSON: {problem}") from problem
    check_removed(spec.recipe.model_dump())
    return spec
