"""What the end of one of the engine's own children means."""

from pathlib import Path

import psutil
import pytest

from compression.schema.config import Config
from compression.system import child_process
from compression.system.child_process import ChildFailed, ChildOutOfMemory, child_lines
from compression.system.interrupts import Pause


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
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{end}\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    counts = iter(counted)
    monkeypatch.setattr(child_process, "killed_for_memory", lambda: next(counts))
    with pytest.raises(ChildFailed) as caught:
        list(child_lines("measure", Config(), timeout=60))
    assert type(caught.value) is kind


def test_a_line_is_heard_as_it_is_said_and_nobody_goes_on_talking_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho $$\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    heard = child_lines("measure", Config(), timeout=60)
    talker = psutil.Process(int(next(heard)))
    assert talker.is_running()
    heard.close()
    assert not talker.is_running()


def test_a_silent_child_is_ended_by_what_is_raised_while_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho $$\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))

    def waiting() -> None:
        raise Pause

    heard = child_lines("measure", Config(), timeout=60, waiting=waiting)
    talker = psutil.Process(int(next(heard)))
    with pytest.raises(Pause):
        next(heard)
    assert not talker.is_running()
