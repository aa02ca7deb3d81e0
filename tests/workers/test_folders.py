"""What a child wrote is read without trusting the child."""

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workers.folders import LOCK, Untrustworthy, check, open_beneath, private_folder, sweep


def test_a_plain_file_is_read_and_checked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"data")
    with open_beneath(tmp_path, "a/b") as source:
        check(source, 4, hashlib.sha256(b"data").hexdigest(), "a/b")
        assert source.read() == b"data"
    for size, sha in ((5, hashlib.sha256(b"data").hexdigest()), (4, "0" * 64)):
        with open_beneath(tmp_path, "a/b") as source, pytest.raises(Untrustworthy):
            check(source, size, sha, "a/b")


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
            assert child.stdout is not None
            child.stdout.readline()
            children.append(child)
        sweep(tmp_path)
        stray, kept = children
        stray.wait(30)  # TimeoutExpired where it still reads
        assert kept.poll() is None
        for child in children:
            child.communicate()
