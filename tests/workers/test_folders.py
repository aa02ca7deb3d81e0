"""What a child wrote is read without trusting the child."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog

from workers.folders import LOCK, RESERVED, SWEEP_LOCK, Untrustworthy, VerifiedFile, open_beneath, private_folder, sweep


def test_a_plain_file_is_checked_as_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"data")
    (tmp_path / "a" / "nothing").touch()
    whole, start = (hashlib.sha256(data).hexdigest() for data in (b"data", b"dat"))
    with open_beneath(tmp_path, "a/b") as source:
        checked = VerifiedFile(source, 4, whole, "a/b")
        assert [checked.read(3) for _ in range(4)] == [b"dat", b"a", b"", b""]
    with open_beneath(tmp_path, "a/nothing") as source:
        assert VerifiedFile(source, 0, hashlib.sha256().hexdigest(), "a/nothing").read(3) == b""
    for size, sha in ((5, whole), (4, "0" * 64), (3, start), (0, whole)):
        with open_beneath(tmp_path, "a/b") as source, pytest.raises(Untrustworthy):
            checked = VerifiedFile(source, size, sha, "a/b")
            while checked.read(9):
                pass


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../secret", "link", "folder-link/secret", "fifo", "a", "", "none"]
)
def test_nothing_leads_out_of_the_folder(path: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder-link").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    with pytest.raises(Untrustworthy):
        open_beneath(root, path)


def test_a_folder_is_private_and_goes_with_its_holder(tmp_path: Path) -> None:
    with private_folder(tmp_path, "job-1") as held:
        assert held.stat().st_mode & 0o777 == 0o700
        sweep(tmp_path)
        assert held.is_dir()
    assert not held.exists()


@pytest.mark.parametrize("had_its_lock", [True, False])  # or was killed before it had, or after it had removed it
def test_what_a_killed_worker_left_is_swept(had_its_lock: bool, tmp_path: Path) -> None:
    left = tmp_path / "job-1"
    left.mkdir()
    if had_its_lock:
        (left / ".held").touch()
    (left / "model").mkdir()
    sweep(tmp_path)
    assert not left.exists()


LAYS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "another's lock": lambda place: place.symlink_to(place.parent.parent / "job-2" / LOCK),
}


@pytest.mark.parametrize("lay", LAYS.values(), ids=LAYS)
def test_what_an_engine_lays_in_a_locks_place_holds_nothing(lay: Callable[[Path], object], tmp_path: Path) -> None:
    left = tmp_path / "job-1"
    left.mkdir()
    lay(left / LOCK)
    (tmp_path / f"job-1{RESERVED}").write_text("1000")
    with private_folder(tmp_path, "job-2") as held:
        sweep(tmp_path)
        assert held.is_dir()
        assert sorted(path.name for path in tmp_path.iterdir()) == [SWEEP_LOCK, "job-2"]


def test_a_folder_that_cannot_be_removed_keeps_nobody_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("job-1", "job-2", "job-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    real = os.unlink

    def unlink(path: str | Path, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None and Path(f"/proc/self/fd/{dir_fd}").readlink().name == "job-2":
            raise OSError(errno.EBUSY, "held by the system")
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    with structlog.testing.capture_logs() as said:
        sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SWEEP_LOCK, "job-2"]
    assert [(entry["log_level"], entry["path"]) for entry in said if entry["event"] == "left_over_stays"] == [
        ("error", str(tmp_path / "job-2"))
    ]


def test_a_folder_that_is_being_made_is_not_swept(tmp_path: Path) -> None:
    over = threading.Event()

    def broom() -> None:
        while not over.is_set():
            sweep(tmp_path)

    with ThreadPoolExecutor(2) as pool:
        brooms = [pool.submit(broom) for _ in range(2)]
        try:
            for number in range(100):
                with private_folder(tmp_path, f"job-{number}") as held:
                    assert (held / LOCK).exists()
        finally:
            over.set()
        for done in brooms:
            done.result(60)


def test_what_still_runs_in_a_left_folder_is_ended_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / "job-1"
    left.mkdir()
    (left / ".held").touch()
    waiting = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with private_folder(tmp_path, "job-2") as held:
        children = []
        for home in (left, held):
            child = subprocess.Popen(waiting, env={"HOME": str(home)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            child.stdout.readline()
            children.append(child)
        sweep(tmp_path)
        stray, kept = children
        stray.wait(30)  # TimeoutExpired where it still reads
        assert kept.poll() is None
        for child in children:
            child.communicate()
