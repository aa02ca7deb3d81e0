"""The host's measuring lock is a worker's to take and to give: what its engine does cannot keep it from other jobs."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.core.settings import Settings
from tests.conftest import wait_for
from tests.workers.conftest import started
from workers.measuring_lock import REQUEST_FILE, MeasuringLock
from workers.sandbox import Sandbox

TURN = """
import pathlib, time
from compression.system.host_lock import host_lock
with host_lock() as turn:
    pathlib.Path("in").write_text(str(turn.exclusive))
    while not pathlib.Path("out").exists():
        time.sleep(0.02)
pathlib.Path("told").write_text(str(turn.exclusive))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@contextmanager
def timing(settings: Settings, name: str, sandbox: Sandbox, wait_seconds: float = 600.0) -> Iterator[Path]:
    """Run an engine that wants its turn, and a worker's part beside it; give its folder."""
    folder = settings.scratch / name
    folder.mkdir(parents=True)
    command = [sys.executable, "-P", "-c", TURN]
    with MeasuringLock(folder, settings), started(command, folder, sandbox, wait_seconds=wait_seconds):
        yield folder


def is_free(settings: Settings) -> bool:
    with (settings.scratch / "measure.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def told(folder: Path, file: str) -> str:
    wait_for(lambda: (folder / file).exists() and (folder / file).read_text(), 60)
    return (folder / file).read_text()


def test_jobs_are_timed_one_after_the_other(settings: Settings, confined: Sandbox) -> None:
    with timing(settings, "first", confined) as first:
        assert told(first, "in") == "True"
        assert not is_free(settings)
        with timing(settings, "second", confined) as second:
            wait_for(lambda: (second / REQUEST_FILE).exists(), 60)
            (first / "out").touch()
            assert (told(first, "told"), told(second, "in")) == ("True", "True")
            (second / "out").touch()
            assert told(second, "told") == "True"
    assert is_free(settings)


def test_who_keeps_the_lock_loses_it_to_the_next_and_says_so(settings: Settings, confined: Sandbox) -> None:
    with timing(settings.model_copy(update={"measure_hold_seconds": 1.0}), "first", confined) as first:
        assert told(first, "in") == "True"
        with timing(settings, "second", confined) as second:
            assert told(second, "in") == "True"  # though the first one never lets go
            (second / "out").touch()
            assert told(second, "told") == "True"
            (first / "out").touch()
            assert told(first, "told") == "False"


def test_who_waits_in_vain_measures_all_the_same_and_says_so(settings: Settings, confined: Sandbox) -> None:
    settings.scratch.mkdir(parents=True)
    with (settings.scratch / "measure.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with timing(settings, "first", confined, wait_seconds=0.5) as first:
            assert told(first, "in") == "False"
            (first / "out").touch()
            assert told(first, "told") == "False"


def test_an_engine_that_dies_keeps_nothing(settings: Settings, confined: Sandbox) -> None:
    with timing(settings, "first", confined) as first:
        assert told(first, "in") == "True"
    assert is_free(settings)


LAYS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "what another locks": lambda place: place.symlink_to(place.parent.parent / "locked"),
}


@pytest.mark.parametrize("lay", LAYS.values(), ids=LAYS)
def test_nothing_but_a_file_asks(lay: Callable[[Path], object], settings: Settings) -> None:
    folder = settings.scratch / "job"
    folder.mkdir(parents=True)
    lay(folder / REQUEST_FILE)
    turns = MeasuringLock(folder, settings)
    with (settings.scratch / "locked").open("w") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        turns._check_request()
        assert turns.held is None
        assert is_free(settings)
