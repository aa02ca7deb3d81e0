"""What the end of one of the engine's own children means."""

from pathlib import Path

import pytest

from compression import child
from compression.child import ChildFailed, ChildOutOfMemory, ask
from compression.recipe import Config


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
    monkeypatch.setattr(child, "killed_for_memory", lambda: next(counts))
    with pytest.raises(ChildFailed) as caught:
        ask("measure", Config(), timeout=60)
    assert type(caught.value) is kind
