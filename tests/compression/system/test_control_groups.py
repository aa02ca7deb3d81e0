"""The cores that control groups allow, from files as the kernel writes them."""

import os
from pathlib import Path

import pytest

from compression.system import processor
from compression.system.control_groups import allowed_cores


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own"
    path.write_text("1:cpu:/else\n0::/outer/inner\n")
    (tmp_path / "root/outer/inner").mkdir(parents=True)
    return path


def test_the_nearest_limit_of_all_groups_counts(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "root"
    assert allowed_cores(root, own) is None
    (root / "outer/inner/cpu.max").write_text("max 100000\n")
    assert allowed_cores(root, own) is None
    (root / "outer/cpu.max").write_text("350000 100000\n")
    assert allowed_cores(root, own) == 4
    (root / "outer/inner/cpu.max").write_text("20000 100000\n")
    assert allowed_cores(root, own) == 1
    (root / "cpu.max").write_text("200000 100000\n")
    assert allowed_cores(root, tmp_path / "none") == 2  # as in a container's own namespace


@pytest.mark.parametrize("text", ["", "max", "100000 0\n", "a b\n"])
def test_a_file_that_says_nothing_sets_no_limit(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert allowed_cores(tmp_path, tmp_path / "none") is None


def test_a_process_uses_no_more_cores_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    here = len(os.sched_getaffinity(0))
    monkeypatch.setattr(processor, "allowed_cores", lambda: None)
    assert processor.usable_cores() == here
    monkeypatch.setattr(processor, "allowed_cores", lambda: here + 1)
    assert processor.usable_cores() == here
    monkeypatch.setattr(processor, "allowed_cores", lambda: 1)
    assert processor.usable_cores() == 1
