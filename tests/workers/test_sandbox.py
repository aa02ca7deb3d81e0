"""What a hostile child reaches at each level: each attempt is also made without confinement, where it succeeds."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest

from app.core.settings import Settings
from compression.schema.job_spec import ModelCheck
from compression.schema.report.measurements import Latency, NotMeasured
from compression.schema.validation import ModelFacts, parse_finding
from tests.compression.modalities.text.test_pair_separator import PLAIN, job_of, read, send
from tests.conftest import ROOT, wait_for
from tests.support.decoder_models import END
from tests.support.examples import TINY_RECIPE, tiny_model
from tests.support.processes import lives
from tests.workers.conftest import started
from workers import landlock, sandbox
from workers.devices import Device
from workers.engine import Engine, engine_command
from workers.sandbox import Sandbox, find_obstacle

HOSTILE = (Path(__file__).parent / "hostile.py").read_text(encoding="utf-8")


@dataclass
class House:
    """A worker's home with another job in it, and a host that serves and works."""

    settings: Settings
    own: Path
    other: Path
    port: int
    abstract: str
    neighbour: "subprocess.Popen[bytes]"

    def run(self, sandbox: Sandbox, code: str, *arguments: str) -> str:
        out, command = self.own / "out", [sys.executable, "-P", "-c", code, *arguments]
        with out.open("wb") as stdout, started(command, self.own, sandbox, stdout=stdout) as child:
            assert child.wait(120) == 0, (self.own / "log").read_text()
        return out.read_text()

    def attempt(self, sandbox: Sandbox, *attempts: Any) -> list[dict[str, str]]:
        out = self.run(sandbox, HOSTILE, json.dumps(attempts))
        found = [json.loads(line) for line in out.splitlines()]
        assert len(found) == len(attempts)
        return found


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    home, abstract = tmp_path / "home", f"lathe-{secrets.token_hex(8)}"
    own, other = home / "scratch" / "own", home / "scratch" / "other"
    for folder in (own, other, home / "storage"):
        folder.mkdir(parents=True)
    for secret in (other / "spec.json", home / "lathe.db", home / "storage" / "blob", home / ".env"):
        secret.write_text("of others")
    (home / "storage" / "empty").touch()
    with ExitStack() as stack:
        doors = []
        addresses: list[tuple[int, Any]] = [
            (socket.AF_INET, ("127.0.0.1", 0)),
            (socket.AF_UNIX, str(home / "door")),
            (socket.AF_UNIX, "\0" + abstract),
        ]
        for family, address in addresses:
            door = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            door.bind(address)
            door.listen(8)
            doors.append(door)
        neighbour = stack.enter_context(subprocess.Popen(["sleep", "600"], env={"SECRET": "of others"}))
        stack.callback(neighbour.kill)
        yield House(Settings(home=home, cancel_grace_seconds=120), own, other, doors[0].getsockname()[1], abstract, neighbour)


def ways_out(house: House) -> list[list[Any]]:
    """Return attempts that succeed for whoever is not confined, and harm nobody."""
    home, pid = house.settings.home, house.neighbour.pid
    return [
        *(["read", str(home / path)] for path in ("lathe.db", ".env", "storage/blob", "scratch/other/spec.json")),
        *(["list", str(path)] for path in (home, house.other, home / "storage", ROOT, Path.home(), Path("/etc"))),
        *(["read", str(path)] for path in (ROOT / "pyproject.toml", Path("/etc/passwd"))),
        *(["read", path] for path in ("/etc/shadow", "/root/.profile") if os.access(path, os.R_OK)),
        ["read", f"/proc/{pid}/environ"],
        ["open to write", str(home / "lathe.db")],
        ["truncate", str(home / "lathe.db")],
        ["empty by the fourth mode", str(home / "storage" / "empty")],
        ["empty by opening", str(Path(numpy.__file__).with_name("py.typed"))],  # which is read, and empty already
        ["open to write", str(ROOT / "compression" / "__init__.py")],
        *(["open to write", path] for path in ("/proc/sys/kernel/core_pattern",) if os.access(path, os.W_OK)),
        ["create", str(house.other / "new")],
        ["create", str(home / "scratch" / "new")],
        ["link to", str(home / "lathe.db")],
        ["move in", str(home / "storage" / "blob")],
        ["TCP", house.port],
        ["Unix", str(home / "door")],
        ["abstract", house.abstract],
        ["pair"],
        ["signal", pid],
        ["signal by a file", pid],
        ["limit", pid],
        ["leave the group"],
    ]


def test_without_confinement_every_way_is_open(house: House) -> None:
    ways = ways_out(house)
    found = house.attempt(Sandbox("none"), *ways)
    # The leader of a session cannot leave its group: that way is open to its children alone.
    closed = [way for way, became in zip(ways, found, strict=True) if "refused" in became]
    assert closed in ([], [["leave the group"]])


def test_every_way_out_is_closed(house: House, confined: Sandbox) -> None:
    ways = ways_out(house)
    found = house.attempt(confined, *ways)
    seen = {str(way): became["done"] for way, became in zip(ways, found, strict=True) if "done" in became}
    if confined.level == "bubblewrap":
        # The folders on the way to what may be read are there, with nothing else in them.
        ours = {"scratch", "compression", "own", ".pyenv", ".local", ".venv", "ld.so.cache", "alternatives"}
        seen = {way: done for way, done in seen.items() if not way.startswith("['list'") or not set(json_list(done)) <= ours}
    assert seen == {}
    assert (house.settings.home / "storage" / "blob").read_text() == "of others"
    assert not (house.other / "new").exists()


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_every_way_out_is_closed_on_older_kernels_too(version: int, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := find_obstacle("landlock+seccomp"):
        pytest.skip(reason)
    if landlock.abi() < version:
        pytest.skip(f"this kernel knows Landlock up to version {landlock.abi()}")
    # The launcher is made to believe that its kernel is older; all that it asks of the kernel is real.
    older = f"from workers import landlock; landlock.abi = lambda: {version}; main()"
    monkeypatch.setattr(sandbox, "START", sandbox.START.replace("main()", older))
    used, ways = Sandbox("landlock+seccomp"), ways_out(house)
    found = house.attempt(used, *ways, ["create", str(house.own / "made")])
    assert [way for way, became in zip(ways, found[:-1], strict=True) if "done" in became] == []
    assert "done" in found[-1]


def json_list(text: str) -> list[str]:
    return json.loads(text.replace("'", '"'))


def test_it_keeps_no_privilege_and_no_descriptor_and_changes_no_modes(house: House, confined: Sandbox) -> None:
    database = house.settings.home / "lathe.db"
    database.chmod(0o600)
    descriptors, privileges, unshared, traced, _ = house.attempt(
        confined, ["descriptors"], ["privileges"], ["unshare"], ["trace", house.neighbour.pid], ["chmod", str(database)]
    )
    assert descriptors["done"] == str(["0", "1", "2", "3"])  # 3 is the listing itself
    assert privileges["done"].count("\\t0000000000000000") == 5
    assert "refused" in unshared
    assert "refused" in traced
    assert database.stat().st_mode & 0o777 == 0o600


def test_it_uses_its_own_folder_and_no_lock_of_the_host(house: House, confined: Sandbox) -> None:
    (house.own / "input").write_text("mine")
    lock = house.settings.scratch / "measure.lock"
    lock.touch()
    tries = (["read", str(house.own / "input")], ["create", str(house.own / "made")], ["signal", 0], ["cores", 0])
    *own, written, read = house.attempt(confined, *tries, ["open to write", str(lock)], ["read", str(lock)])
    assert [became for became in own if "refused" in became] == []
    assert (house.own / "made").exists()
    assert "refused" in written
    assert "refused" in read


def test_it_slows_no_other_engine_down(house: House, confined: Sandbox) -> None:
    with started(["/usr/bin/sleep", "600"], house.other, confined) as other:
        wait_for(lambda: "sleep" in [process.name() for process in psutil.Process(other.pid).children(recursive=True)], 60)
        (asleep,) = [one for one in psutil.Process(other.pid).children(recursive=True) if one.name() == "sleep"]
        ways = [[way, asleep.pid] for way in ("priority", "disk priority", "scheduler", "cores")]
        assert [list(became) for became in house.attempt(confined, *ways)] == [["refused"]] * 4
        assert [list(became) for became in house.attempt(Sandbox("none"), *ways)] == [["done"]] * 4


def test_it_makes_no_file_that_gives_others_its_user(house: House, confined: Sandbox) -> None:
    for name in ("file", "opened"):
        (house.own / name).touch(mode=0o755)
    deeds = {"set ids": "file", "make with ids": "made", "make a node with ids": "node", "set ids of what is open": "opened"}
    ways = [[deed, str(house.own / name)] for deed, name in deeds.items()]
    house.attempt(confined, *ways)
    assert [path.name for path in house.own.iterdir() if path.lstat().st_mode & 0o6000] == []
    house.attempt(Sandbox("none"), *ways)
    assert {path.name for path in house.own.iterdir() if path.lstat().st_mode & 0o6000} == set(deeds.values())


def test_it_reads_what_the_operator_lends_and_changes_nothing_there(house: House, confined: Sandbox) -> None:
    words = house.settings.home.parent / "words"
    words.mkdir()
    (words / "index.noun").write_text("film")
    ways = [["read", str(words / "index.noun")], ["list", str(words)], ["create", str(words / "new")]]
    assert [list(became) for became in house.attempt(confined, *ways)] == [["refused"]] * 3
    lending = Sandbox(confined.level, [words])
    assert [list(became) for became in house.attempt(lending, *ways)] == [["done"], ["done"], ["refused"]]


@pytest.mark.skipif(not shutil.which("apertium"), reason="apertium is not installed")
def test_a_translation_pair_of_the_system_runs_inside(house: House, confined: Sandbox) -> None:
    if "eng-spa" not in subprocess.run(["apertium", "-l"], capture_output=True, text=True, check=False).stdout.split():
        pytest.skip("apertium-eng-spa is not installed")
    code = "from compression.modalities.text.augmentation import apertium; print(apertium.Apertium('eng-spa')(['A house.']))"
    assert "casa" in house.run(confined, code)


def test_under_bubblewrap_there_is_nobody_else_and_nothing_else_to_write_to(house: House, confined: Sandbox) -> None:
    if confined.level != "bubblewrap":
        pytest.skip("Landlock hides no processes; it lets nobody touch them")
    processes, mounts = house.attempt(confined, ["processes"], ["mounts"])
    assert set(json_list(processes["done"])) <= {"1", "2"}
    assert {place for place in json_list(mounts["done"]) if not place.startswith("/dev/")} == {str(house.own)}


ESCAPE = """
import os, sys, time
if os.fork() == 0:
    try:
        os.setsid()
    except OSError:
        pass
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", sys.argv[1]])
    os._exit(0)
os.wait()
open("escaped", "w").close()
time.sleep(float(sys.argv[2]))
"""
WORKER = """
import subprocess, sys
from pathlib import Path
from workers import landlock, sandbox
from workers.devices import Device
from workers.engine import start_child
from workers.sandbox import Sandbox
folder, level, code, mark = Path(sys.argv[1]), *sys.argv[2:]
with (folder / "log").open("wb") as log:
    child = start_child([sys.executable, "-c", code, mark, "600"], folder,
        Sandbox(level), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
child.wait()
"""


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.cmdline() and lives(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def test_a_killed_worker_takes_a_child_that_hid_twice_with_it(house: House, confined: Sandbox) -> None:
    mark = f"600.{secrets.randbelow(10**9):09}"
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(house.own), confined.level, ESCAPE, mark], cwd=ROOT)
    try:
        wait_for(lambda: (house.own / "escaped").exists(), 120)
        wait_for(lambda: "sleep" in [process.name() for process in marked(mark)], 60)
        below = psutil.Process(worker.pid).children(recursive=True)
        assert below
        worker.kill()
        worker.wait()
        wait_for(lambda: not marked(mark) and not any(map(lives, below)), 60)
    finally:
        worker.kill()
        for process in marked(mark):
            process.kill()


def test_what_a_finished_child_left_behind_is_gone_before_its_status_is_told(house: House, confined: Sandbox) -> None:
    mark = f"600.{secrets.randbelow(10**9):09}"
    with started([sys.executable, "-c", ESCAPE, mark, "0"], house.own, confined) as child:
        assert child.wait(120) == 0
        assert (house.own / "escaped").exists()
        wait_for(lambda: not marked(mark), 60)


def test_a_signal_that_ends_it_is_told_as_such(house: House, confined: Sandbox) -> None:
    ends = {"import os; os.kill(os.getpid(), 9)": -9, "import os; os.abort()": -6, "raise SystemExit(2)": 2}
    for code, status in ends.items():
        with started([sys.executable, "-c", code], house.own, confined) as child:
            assert confined.exit_status(child.wait(120)) == status


def test_the_check_of_a_model_works_inside(house: House, confined: Sandbox) -> None:
    tiny_model(house.own / "model")
    spec, answer = house.own / "check.json", house.own / "finding.json"
    spec.write_text(ModelCheck(path=str(house.own / "model")).model_dump_json())
    arguments = engine_command("validate", spec, "--die-with-parent")
    with answer.open("wb") as out, started(arguments, house.own, confined, stdout=out) as child:
        assert child.wait(300) == 0, (house.own / "log").read_text()
    assert isinstance(parse_finding.validate_json(answer.read_bytes()), ModelFacts)


def test_the_engine_runs_and_measures_inside_and_a_decoder_reads_pairs(house: House, confined: Sandbox) -> None:
    """The decoder's folder is one of links then, to files that came with the job: they are followed inside, and none leaves.

    Engines of encoders run inside in test_whole.py.
    """
    sent = send(house.own / "model")
    path = house.own / "spec.json"
    recipe = {"prepare": TINY_RECIPE["prepare"], "quantize": None, "prune": None, "distill": None, "train": PLAIN["train"]}
    path.write_text(job_of(house.own, recipe=recipe).model_dump_json())
    with Engine(path, house.own, house.settings, confined) as engine:
        events = list(engine.events(600))
        assert engine.status() == 0, engine.last_output()
    last = events[-1]
    assert [row.stage for row in last.report.rows] == ["baseline"]
    for row in last.report.rows:
        assert isinstance(row.latency, Latency)
        assert not isinstance(row.peak_memory_bytes, NotMeasured)
    assert "stands between them now" in " ".join(last.report.rows[0].notes)
    assert read(sent, "a", "b") == ["a", "b"]
    for artifact in last.report.artifacts:
        assert read(house.own / "out" / "artifacts" / artifact.name, "a", "b") == ["a", END, "b"]
    assert not [each for each in (house.own / "out").rglob("*") if each.is_symlink()]  # which a worker would refuse


def test_the_signal_of_the_worker_reaches_the_engine(house: House, confined: Sandbox) -> None:
    arguments = [sys.executable, "-c", "import time; open('up', 'w').close(); time.sleep(600)"]
    with started(arguments, house.own, confined) as child:
        wait_for(lambda: (house.own / "up").exists(), 120)
        os.killpg(child.pid, signal.SIGTERM)
        assert confined.exit_status(child.wait(120)) == -signal.SIGTERM


def test_an_engine_opens_its_worker_s_card_and_no_other(house: House, confined: Sandbox) -> None:
    """Files stand for the cards here: rules go by names, and where a name leads makes no difference to them."""
    nodes = [house.settings.home.parent / f"nvidia{number}" for number in range(2)]
    for node in nodes:
        node.write_text("a card")
    ways = [[deed, str(node)] for node in nodes for deed in ("read", "open to write")]
    with_card = Sandbox(confined.level, device=Device("cuda", "GPU-x", (nodes[1],)))
    assert [list(became) for became in house.attempt(with_card, *ways)] == [["refused"], ["refused"], ["done"], ["done"]]
    assert [list(became) for became in house.attempt(confined, *ways)] == [["refused"]] * 4


NAMES = """
import os, threading
for name in ("self/comm", f"self/task/{threading.get_native_id()}/comm"):
    open(f"/proc/{name}", "w").write("cuda")
pid = os.fork()
if pid == 0:
    open("/proc/self/comm", "w").write("measure")
    os._exit(0)
os._exit(os.waitpid(pid, 0)[1])
"""


def test_a_card_s_driver_names_its_threads_and_changes_nothing_else_in_proc(house: House, confined: Sandbox) -> None:
    node = house.settings.home.parent / "nvidia0"
    node.write_text("a card")
    with_card = Sandbox(confined.level, device=Device("cuda", "GPU-x", (node,)))
    house.run(with_card, NAMES)
    if confined.level == "bubblewrap" or os.geteuid() != 0:
        places = [place for guarded in sandbox.guarded_proc() for place in files_of(guarded)]
        assert {"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname"} <= set(places)
        assert [list(became) for became in house.attempt(with_card, *(["open to write", place] for place in places))] == [
            ["refused"]
        ] * len(places)
    with pytest.raises(AssertionError, match=r"Read-only|Permission"):
        house.run(confined, NAMES)


def files_of(place: Path) -> list[str]:
    """Return files of an entry of /proc that their owner may write, a hundred at most."""
    found = [place] if place.is_file() else [each for each in sorted(place.rglob("*")) if each.is_file()]
    return [str(each) for each in found if each.stat().st_mode & 0o200][:100]


def test_root_gets_no_card_through_landlock(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "find_obstacle", lambda level: "it is not here" if level == "bubblewrap" else None)
    card = Device("cuda", "GPU-x", (Path("/dev/nvidia0"),))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert sandbox.get_sandbox(house.settings, card).level == "landlock+seccomp"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert sandbox.get_sandbox(house.settings).level == "landlock+seccomp"
    with pytest.raises(sandbox.CannotConfine, match="as another user"):
        sandbox.get_sandbox(house.settings, card)
