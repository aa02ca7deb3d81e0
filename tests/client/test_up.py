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
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from client import config
from client.api import Lathe
from client.embedded import watchdog
from client.embedded.processes import Part, Watchdog
from client.embedded.up import locked
from tests.client.embedded import COMMAND, Up, family, running, start
from tests.conftest import ROOT, wait_for
from tests.support.processes import command_of


def part(home: Path, word: str) -> psutil.Process:
    """The process of a part, by a word of its command line; not one that it forked."""
    found = [process for process in family(home) if word in command_of(process)]
    return min(found, key=lambda process: process.create_time())


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A set each process of which may open few files: connections are many at once. The last test that takes it kills it."""
    with running(tmp_path_factory.mktemp("crowded") / "home", files=300) as ready:
        yield ready


def test_it_starts_mends_stops_and_starts_again(up: Up) -> None:
    stored = config.load_file(up.home)
    assert (stored.url, stored.key) == (up.facts["url"], up.facts["key"])
    assert stat.S_IMODE(up.home.stat().st_mode) == 0o700
    secret = (up.home / "valkey" / "valkey.conf").read_text().split("requirepass ")[1].split()[0]
    assert not [process for process in family(up.home) if secret in " ".join(command_of(process))]

    with Lathe(stored.url, stored.key) as lathe:
        kinds = wait_for(lambda: {"jobs", "checks"} <= {worker.kind for worker in lathe.workers()})
        assert kinds

        twin = subprocess.run([*COMMAND, "--home", str(up.home)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert twin.returncode == 1
        assert json.loads(twin.stdout)["error"]["code"] == "cannot_start"

        api = part(up.home, "app.server")
        api.kill()
        wait_for(lambda: not api.is_running())
        wait_for(lathe.ready)
        assert part(up.home, "app.server").pid != api.pid
        assert list(lathe.keys())

    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(180) == 0
    assert family(up.home) == []

    again = start(up.home)
    facts = json.loads(again.stdout.readline())
    assert (facts["key"], facts["key_known"]) == (None, True)
    stored = config.load_file(up.home)
    assert (stored.url, stored.key) == (facts["url"], up.facts["key"])
    with Lathe(stored.url, stored.key) as lathe:
        assert list(lathe.keys())
    again.send_signal(signal.SIGINT)
    assert again.wait(180) == 0
    assert family(up.home) == []


def test_whoever_asks_twice_does_not_wait_for_a_part_that_hangs(up: Up) -> None:
    wait_for(lambda: len(family(up.home)) >= 8)  # the workers have forked too
    for process in family(up.home):
        if process.pid != up.process.pid and watchdog.__file__ not in command_of(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def asked_again() -> bool:
        up.process.send_signal(signal.SIGINT)
        return up.process.poll() is not None

    wait_for(asked_again, 40, every=1)  # asked once, it would wait for 10 s, 63 s, 10 s and 5 s
    assert family(up.home) == []


def test_a_port_that_is_taken_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(tmp_path / "home", "--port", str(port))
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert str(port) in json.loads(out)["error"]["cause"]
    assert family(tmp_path / "home") == []


def test_a_part_that_cannot_start_takes_the_others_with_it_and_closes_the_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    process = start(home, "--database", "postgresql://nobody@127.0.0.1:1/none")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert json.loads(out)["error"]["code"] == "cannot_start"
    assert family(home) == []
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_sockets_that_say_nothing_stop_no_answer_and_fill_no_log(crowded: Up) -> None:
    with contextlib.ExitStack() as held:
        log = crowded.home / "logs" / "api.log"
        before = log.stat().st_size
        port = urlsplit(crowded.facts["url"]).port
        for number in range(600):
            connection = held.enter_context(socket.socket())
            connection.bind(("127.0.0.2", 0))
            connection.connect(("127.0.0.1", port))
            with contextlib.suppress(OSError):  # what is over the bound is closed at once
                connection.sendall(b"GET / HT")
            if number % 100 == 99:
                assert httpx.get(f"{crowded.facts['url']}/healthz/live", timeout=60).status_code == 200
        assert log.stat().st_size - before < 1 << 20
        assert "out of system resource" not in log.read_text()
        assert part(crowded.home, "app.server").num_fds() < 300


def test_nothing_survives_it_when_it_is_killed(crowded: Up) -> None:
    before = family(crowded.home)
    assert len(before) >= 6  # itself, its watchdog, valkey, the API, two workers and the keeper
    crowded.process.kill()
    crowded.process.wait()
    wait_for(lambda: not family(crowded.home), 60)


def test_a_log_that_grows_long_makes_room_while_its_part_writes_on(tmp_path: Path) -> None:
    writer = [sys.executable, "-c", "n = 0\nwhile True: print(('a' if n < 100 else 'b') * 65535, flush=True); n += 1"]
    writing = Part("writer", writer, environment=dict(os.environ), folder=tmp_path, logs=tmp_path, grace=1.0)
    with locked(tmp_path) as lock:
        dog = Watchdog(os.environ, tmp_path, lock)
        try:
            writing.start(dog)
            wait_for(lambda: writing.look_after(dog) or writing.log.with_suffix(".log.1").exists(), every=0.01)
            assert writing.log.with_suffix(".log.1").open("rb").read(1) == b"a"
            wait_for(lambda: writing.log.stat().st_size)
            assert writing.log.open("rb").read(1) in {b"b", b"\n"}  # it goes on at the beginning: there is no hole of zeros
        finally:
            writing.stop(lambda: True)
            dog.close()
