"""Records of trainings: the curve, and the answers to validation and test."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast


@dataclass(frozen=True)
class Run:
    """One training of one set. Answers are ids of labels in the order of `labels`, or numbers.

    curve: validation after each epoch; seconds: all of it, answering included; converged, linear_probe: of the job alone.
    """

    name: str
    digest: str
    rate: float
    seed: int
    epochs: int
    curve: tuple[float, ...]
    best_epoch: int
    validation: tuple[float, ...]
    test: tuple[float, ...]
    seconds: float
    labels: tuple[str, ...] = ()
    converged: bool | None = None
    linear_probe: float | None = None


def kept(path: Path, digest: str) -> Run | None:
    """Read a record; None if there is none, or it is of other rows."""
    if not path.exists():
        return None
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(path.read_text()).items()}
    return Run(**cast(Any, found)) if found["digest"] == digest else None


def keep(run: Run, path: Path) -> None:
    """Write a record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(run) | {"validation": _short(run.validation), "test": _short(run.test)}) + "\n")
    part.replace(path)


def _short(answers: tuple[float, ...]) -> list[float]:
    """Round answers; ids become whole numbers."""
    return [int(value) if value == int(value) else round(value, 5) for value in answers]
