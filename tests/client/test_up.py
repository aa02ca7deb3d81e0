"""`lathe up` with all its parts: it starts, mends what dies, stops in order, and leaves nothing behind however it ends."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from client import config
from client.api import Lathe
from tests.conftest import ROOT, wait_for

COMMAND = (sys.executable, "-m", "client", "up", "--json")


@dataclass
class Up:
    """A `lathe up` that is ready."""

    process: subprocess.Popen[str]
    home: Path
    facts: dict[str, Any]

    def said(self) -> str:
        """What it told on stderr until it ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()


def family(home: Path) -> list[psutil.Process]:
    """Every process that belongs to a home, `lathe up` itself too, whoever its parent is now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("LATHE_HOME") == str(home) or str(home) in " ".join(process.cmdline()):
                found.append(process)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def start(home: Path, *options: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LATHE_")}
    command = [*COMMAND, "--home", str(home), "--port", "0", *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    home = tmp_path / "home"
    process = start(home)
    assert process.stdout is not None
    yield Up(process, home, json.loads(process.stdout.readline()))
    process.kill()
    process.wait()
    for left in family(home):
        with contextlib.suppress(psutil.Error):
            left.kill()


def part(home: Path, word: str) -> psutil.Process:
    """The process of a part, by a word of its command line; not one that it forked."""
    found = [process for process in family(home) if word in process.cmdline()]
    return min(found, key=lambda process: process.create_time())


def test_it_starts_mends_and_stops(up: Up) -> None:
    stored = config.load_file(up.home)
    assert stored is not None
    assert (stored.url, stored.key) == (up.facts["url"], up.facts["key"])
    assert stat.S_IMODE(up.home.stat().st_mode) == 0o700
    secret = (up.home / "valkey" / "valkey.conf").read_text().split("requirepass ")[1].split()[0]
    assert not [process for process in family(up.home) if secret in " ".join(process.cmdline())]

    with Lathe(stored.url, stored.key) as lathe:
        kinds = wait_for(lambda: {"jobs", "checks"} <= {worker["kind"] for worker in lathe.pages("/v1/workers")})
        assert kinds

        twin = subprocess.run([*COMMAND, "--home", str(up.home)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert twin.returncode == 1
        assert json.loads(twin.stdout)["error"]["code"] == "cannot_start"

        api = part(up.home, "app.main:app")
        api.kill()
        wait_for(lambda: not api.is_running())
        wait_for(lathe.ready)
        assert part(up.home, "app.main:app").pid != api.pid
        assert list(lathe.keys())

    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0
    assert family(up.home) == []


def test_a_second_start_finds_its_data_and_shows_no_key(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    again = start(up.home)
    assert again.stdout is not None
    facts = json.loads(again.stdout.readline())
    assert (facts["key"], facts["key_known"]) == (None, True)
    stored = config.load_file(up.home)
    assert stored is not None
    assert (stored.url, stored.key) == (facts["url"], up.facts["key"])
    with Lathe(stored.url, stored.key) as lathe:
        assert list(lathe.keys())
    again.send_signal(signal.SIGTERM)
    assert again.wait(60) == 0
    assert family(up.home) == []


def test_nothing_survives_it_when_it_is_killed(up: Up) -> None:
    before = family(up.home)
    assert len(before) >= 6  # itself, its watchdog, valkey, the API, two workers and the keeper
    up.process.kill()
    up.process.wait()
    wait_for(lambda: not family(up.home), 60)


def test_a_port_that_is_taken_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(tmp_path / "home", "--port", str(port))
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert str(port) in json.loads(out)["error"]["cause"]
    assert family(tmp_path / "home") == []


def test_a_part_that_cannot_start_takes_the_others_with_it(tmp_path: Path) -> None:
    process = start(tmp_path / "home", "--database", "postgresql://nobody@127.0.0.1:1/none")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert json.loads(out)["error"]["code"] == "cannot_start"
    assert family(tmp_path / "home") == []
