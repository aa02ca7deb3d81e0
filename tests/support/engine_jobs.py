"""Jobs on the tiny model, by the command that the workers start."""

import faulthandler
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from compression.__main__ import main
from compression.engine import shipping
from compression.schema.events import Event, parse_event
from compression.schema.job_spec import Spec
from compression.schema.report.before import Before
from compression.schema.report.measurements import Row
from compression.schema.report.report import Report
from tests.support import warm
from tests.support.measuring import briefly

STAGES = ["baseline", "quantized", "pruned", "distilled"]
RECIPE: dict[str, Any] = {
    "prepare": {"epochs": 4, "rate": 3e-3},
    "prune": {"ratio": 0.5, "multiple": 8, "calibration_rows": 64},
    "distill": {"epochs": 3, "rate": 3e-3},
    "train": {"batch": 16, "max_length": 32},
}


def asked_of(model: Path | str, rows: Path | str = ".", /, **changes: Any) -> dict[str, Any]:
    splits = {name: [str(Path(rows, f"{name}.jsonl"))] for name in ("train", "test")}
    own = {"model": str(model), "data": {"format": "jsonl", "splits": splits}, "recipe": RECIPE, "evaluate": {"length": 16}}
    return {**own, "output": "out", "threads": 1, **changes}


def spec_of(model: Path | str, rows: Path | str = ".", /, **changes: Any) -> Spec:
    return Spec.model_validate(asked_of(model, rows, **changes))


def write_spec(place: Path, encoder: Path, reviews: Path, **changes: Any) -> Path:
    place.mkdir(exist_ok=True)
    path = place / "spec.json"
    path.write_text(json.dumps(asked_of(encoder, reviews, **changes)))
    return path


def report_of(events: Iterable[Event]) -> Report:
    *_, last = events
    return last.report


def start(spec: Path, *options: str, **settings: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "compression", "run", str(spec), *options]
    return subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL, **settings)


def fork(
    spec: Path, *options: str, stdout: int | None = None, kept: Sequence[int] = (), first: Callable[[], None] = lambda: None
) -> warm.Forked:
    """Start the same in a process that is forked from this one and has its libraries, whose import takes seconds.

    It measures briefly, in itself. Its log is `errors` beside the specification. kept: descriptors that it has beside its
    streams. first: what it does before all else.
    """
    reader, writer = os.pipe()
    log = os.open(spec.parent / "errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    pid = os.fork()
    if pid == 0:
        command = [sys.executable, "-m", "compression", "run", str(spec), *options]
        try:
            warm.become(command, dict(os.environ), Path.cwd(), (reader, log if stdout is None else stdout, log), kept)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            # A thread of the parent may have held a lock at the fork: a child that hangs says where, and ends.
            faulthandler.dump_traceback_later(900, exit=True)
            shipping.measure_artifact = briefly
            first()
            warm.leave(main(command[3:]))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    for descriptor in (reader, log):
        os.close(descriptor)
    return warm.Forked(pid, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.fdopen(writer, "wb", buffering=0))


def events(lines: Iterator[str]) -> Iterator[Event]:
    for line in lines:
        yield parse_event.validate_json(line)


def before_of(output: Path, artifact: str) -> Before:
    return Before.model_validate_json((output / "artifacts" / artifact / "before.json").read_text())


def rows_in_download(report: Report, count: int, part: str = "") -> tuple[Row, ...]:
    """Return a report's first rows as before.json has them; of several datasets one's."""
    own = [row.parts[part] if part else row for row in report.rows[:count]]
    return tuple(row.model_copy(update={"ranges": ()}) for row in own)
