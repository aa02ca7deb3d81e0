"""Attempts of a job that are killed in a training, and what a supervisor keeps of them for the next."""

import os
import shutil
import signal
from pathlib import Path

from compression.schema.events import Event, StageFinished, TablesSaved, TrainingSaved
from compression.training.save import FOLDER
from tests.support.engine_jobs import events, fork

UNSAVED = {"save_seconds": None}
"""Of a last attempt whose saves nobody collects: the end of each of its trainings would wait in vain for the one before."""


def attempt(place: Path, kept: Path, spec: Path, kill_in: str, stage: str | None = None) -> list[Event]:
    """Run the engine in a process as a supervisor does, and kill it once it has saved a training of a name. stage: None is
    any.
    """
    reader, writer = os.pipe()
    engine = fork(spec, "--events-fd", str(writer), "--die-with-parent", kept=[writer])
    os.close(writer)
    seen: list[Event] = []
    with os.fdopen(reader, encoding="utf-8") as pipe:
        for event in events(pipe):
            seen.append(event)
            keep(event, place / "out" / "checkpoints", kept)
            is_there = isinstance(event, TrainingSaved) and event.phase == kill_in and event.step > 2
            if is_there and stage in (None, event.stage):
                engine.send_signal(signal.SIGKILL)
                break
    engine.stdin.close()
    assert engine.wait() == -signal.SIGKILL
    return seen


def keep(event: Event, made: Path, kept: Path) -> None:
    """Copy what an event hands over to where the next attempt finds it."""
    named: dict[str, str] = {}
    if isinstance(event, TrainingSaved):
        named = {event.folder: FOLDER}
    if isinstance(event, StageFinished):
        named = {event.row.stage: event.row.stage}
    if isinstance(event, TablesSaved):
        named = {"tables": "tables"}
    for folder, name in named.items():
        shutil.rmtree(kept / name, ignore_errors=True)
        shutil.copytree(made / folder, kept / name)
    if isinstance(event, TrainingSaved):
        shutil.rmtree(made / event.folder)
