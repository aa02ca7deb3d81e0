"""Jobs on the tiny model, by the command that the workers start."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from compression.schema.events import Event, parse_event
from compression.schema.job_spec import Spec
from compression.schema.report.before import Before
from compression.schema.report.measurements import Row
from compression.schema.report.report import Report

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


def events(lines: Iterator[str]) -> Iterator[Event]:
    for line in lines:
        yield parse_event.validate_json(line)


def before_of(output: Path, artifact: str) -> Before:
    return Before.model_validate_json((output / "artifacts" / artifact / "before.json").read_text())


def rows_in_download(report: Report, count: int, part: str = "") -> tuple[Row, ...]:
    """Return a report's first rows as before.json has them; of several datasets one's."""
    own = [row.parts[part] if part else row for row in report.rows[:count]]
    return tuple(row.model_copy(update={"ranges": ()}) for row in own)
