"""A folder is removed whatever a child made of it, and nothing beside it."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.folders import private_folder, remove_beneath, sweep
from workers.removal import remove_tree

NOBODY = 65534


def nest(root: Path, depth: int) -> None:
    at = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        deeper = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 256), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_depth_is_too_much_for_a_sweep(tmp_path: Path, few_descriptors: None) -> None:
    (tmp_path / "job-1").mkdir()
    nest(tmp_path / "job-1", 1500)
    sweep(tmp_path)
    assert not (tmp_path / "job-1").exists()


def test_nor_for_the_end_of_an_attempt_nor_for_what_it_saved(tmp_path: Path) -> None:
    with private_folder(tmp_path, "job-1") as folder:
        (folder / "out/training-1").mkdir(parents=True)
        nest(folder / "out/training-1", 1500)
        remove_beneath(folder, "out/training-1")
        assert list((folder / "out").iterdir()) == []
        nest(folder, 1500)
    assert not folder.exists()
    with private_folder(tmp_path, "job-1") as folder:  # and what is left of an attempt is no hindrance to the next
        pass


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside, left = tmp_path / "outside", tmp_path / "left"
    outside.mkdir()
    (outside / "file").write_text("of others")
    (left / "deep/deeper").mkdir(parents=True)
    (left / "deep/file").symlink_to(outside / "file")
    (left / "deep/deeper/folder").symlink_to(outside)
    (left / "folder").symlink_to(outside)
    (left / "deep/hard").hardlink_to(outside / "file")
    os.mkfifo(left / "pipe")
    remove_tree(left)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "file").read_text() == "of others"
    (tmp_path / "link").symlink_to(outside)
    remove_tree(tmp_path / "link")
    remove_tree(tmp_path / "nothing")
    assert (outside / "file").exists()
    assert not (tmp_path / "link").is_symlink()


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A folder of somebody who is not root, who we then are: to root no mode means anything."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    root = os.geteuid() == 0
    if root:
        os.chown(place, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    yield place
    if root:
        os.seteuid(0)
        os.setegid(0)
    shutil.rmtree(place, ignore_errors=True)


def test_no_mode_keeps_a_folder_from_being_removed(not_root: Path) -> None:
    left = not_root / "left"
    for mode in (0o000, 0o500, 0o400, 0o300):
        inner = left / f"{mode:o}" / "inner"
        inner.mkdir(parents=True)
        (inner / "file").touch()
        inner.chmod(mode)
        inner.parent.chmod(mode)
    left.chmod(0o000)
    remove_tree(left)
    assert list(not_root.iterdir()) == []
