"""What the end of one of the engine's own children means."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest

from compression.schema.config import Config
from compression.system import child_process
from compression.system.child_process import ChildFailed, ChildLate, ChildOutOfMemory, child_lines
from compression.system.interrupts import Pause


def runs_as_python(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))


@pytest.mark.parametrize(
    ("end", "counted", "kind"),
    [
        ("kill -KILL $$", (3, 4), ChildOutOfMemory),
        ("kill -KILL $$", (3, 3), ChildFailed),  # by a person, or by a test of ours
        ("exit 1", (3, 4), ChildFailed),  # the kernel ended another's
        ("exit 4", (3, 3), ChildOutOfMemory),
    ],
)
def test_a_killed_child_had_too_little_memory_only_where_the_kernel_says_so(
    end: str, counted: tuple[int, int], kind: type[ChildFailed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_as_python(tmp_path, monkeypatch, end)
    monkeypatch.setattr(child_process, "killed_for_memory", Mock(side_effect=counted))
    with pytest.raises(ChildFailed, check=lambda error: type(error) is kind):
        list(child_lines("measure", Config(), timeout=60))


def test_a_line_is_heard_as_it_is_said_and_nobody_talks_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_as_python(tmp_path, monkeypatch, "echo $$\nexec sleep 600")
    heard = child_lines("measure", Config(), timeout=60)
    talker = psutil.Process(int(next(heard)))
    assert talker.is_running()
    heard.close()
    assert not talker.is_running()

    # A silent one is ended by what is raised while it is waited for.
    wanted = threading.Event()

    def waiting() -> None:
        if wanted.is_set():
            raise Pause

    heard = child_lines("measure", Config(), timeout=60, waiting=waiting)
    talker = psutil.Process(int(next(heard)))
    wanted.set()
    with pytest.raises(Pause):
        next(heard)
    assert not talker.is_running()


def test_a_child_that_falls_silent_is_given_up_however_long_others_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_as_python(tmp_path, monkeypatch, "echo $$\nexec sleep 600")
    heard = child_lines("measure", Config(), silence=20)
    talker = psutil.Process(int(next(heard)))
    monkeypatch.setattr(child_process, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 20))
    with pytest.raises(ChildLate, match="measure said nothing for 20 s"):
        next(heard)
    assert not talker.is_running()
