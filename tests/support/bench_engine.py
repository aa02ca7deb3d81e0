"""The engine of a bench in the process of the test, and what it measures with: a fresh one takes seconds of imports."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from bench import engine
from compression.engine import shipping
from compression.engine.commands.run import job
from compression.schema.errors import CompressionError
from compression.schema.events import Failed
from tests.support import tracing
from tests.support.measuring import briefly


class InProcess:
    """Takes the place of the engine's process: its lines are the events of the job."""

    stdin = None

    def __init__(self, command: list[str], **_: Any) -> None:
        self.spec, self.returncode = Path(command[command.index("run") + 1]), 0
        self.stdout = self._lines()

    def _lines(self) -> Iterator[bytes]:
        try:
            for event in job(self.spec):
                yield event.model_dump_json().encode() + b"\n"
        except CompressionError as problem:
            failed = Failed(code=problem.code, cause=problem.cause, remedy=problem.remedy_text)
            yield failed.model_dump_json().encode() + b"\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout = iter(())

    def kill(self) -> None:
        """End nothing: it runs in the test."""


def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a bench's jobs in this process, and time for moments only."""
    # Of the bench alone: all others start real processes.
    here = SimpleNamespace(Popen=InProcess, PIPE=subprocess.PIPE, run=subprocess.run)
    monkeypatch.setattr(engine, "subprocess", here)
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    tracing.keep()
