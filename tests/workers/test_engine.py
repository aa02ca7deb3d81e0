"""The engine's pipe is not trusted: a child that does not keep to the protocol is found out and ended."""

import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.core.settings import Settings
from compression.schema.events import Log
from workers import engine as engines, sandbox
from workers.attempt_ends import describe_end
from workers.engine import Engine, child_environment
from workers.folders import Untrustworthy


@pytest.fixture
def run(confined: sandbox.Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Engine]:
    """Starts a child of ours in the engine's place: it gets the same pipe, folder, environment and confinement."""

    def start(code: str) -> Engine:
        program = (
            "import json, os, sys\nfd = int(sys.argv[sys.argv.index('--events-fd') + 1])\npipe = os.fdopen(fd, 'w')\n" + code
        )
        monkeypatch.setattr(engines, "engine_command", lambda _, spec, *more: [sys.executable, "-c", program, str(spec), *more])
        return Engine(tmp_path / "spec.json", tmp_path, Settings(home=tmp_path, cancel_grace_seconds=60), confined)

    return start


def test_events_arrive_in_order_and_silence_ticks(run: Callable[[str], Engine]) -> None:
    code = (
        "import time\nfor n in range(3):\n"
        "    print(json.dumps({'type': 'log', 'message': str(n)}), file=pipe, flush=True); time.sleep(.4)"
    )
    with run(code) as engine:
        events = list(engine.events(0.1))
        assert engine.status() == 0
    assert [event.message for event in events if isinstance(event, Log)] == ["0", "1", "2"]
    assert None in events


@pytest.mark.parametrize(
    "code",
    [
        "print('not json', file=pipe, flush=True)",
        "print(json.dumps({'type': 'outcome', 'state': 'succeeded'}), file=pipe, flush=True)",
        "print(json.dumps({'type': 'log', 'message': 'x', 'extra': 1}), file=pipe, flush=True)",
        "print(json.dumps({'type': 'log', 'message': 'x' * 5000}), file=pipe, flush=True)",
        "pipe.write('x' * 9_000_000); pipe.flush()",
        "for n in range(100_000): print(json.dumps({'type': 'log', 'message': 'flood'}), file=pipe)",
    ],
)
def test_what_is_no_event_is_found_out(code: str, run: Callable[[str], Engine]) -> None:
    with run(code) as engine, pytest.raises(Untrustworthy):
        for _ in engine.events(0.1):
            pass
    assert engine.process.returncode is not None


def test_stop_ends_a_child_that_ignores_sigterm_and_all_of_its_group(run: Callable[[str], Engine]) -> None:
    code = (
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print(json.dumps({'type': 'log', 'message': str(child.pid)}), file=pipe, flush=True)\ntime.sleep(600)"
    )
    with run(code) as engine:
        next(event for event in engine.events(0.1) if isinstance(event, Log))
        family = psutil.Process(engine.process.pid).children(recursive=True)
        assert "sleep" in [process.name() for process in family]
        engine.settings = engine.settings.model_copy(update={"cancel_grace_seconds": 0.5})
        engine.stop()
        assert engine.process.returncode is not None
    _, alive = psutil.wait_procs(family, 30)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_an_engine_that_is_gone_is_signalled_no_more(run: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """A report may wait for devices for a day after its engine: the number may be another process's by then."""
    with run("") as engine:
        assert list(engine.events(600)) == []
        engine.stop()
        monkeypatch.setattr(engines.os, "killpg", lambda *_: pytest.fail("a signal to whoever has the number now"))
        engine.stop()
        engine.kill()
        engine.status()


def test_a_pause_arrives_on_the_standard_input(run: Callable[[str], Engine]) -> None:
    code = "print(json.dumps({'type': 'log', 'message': sys.stdin.readline().strip()}), file=pipe, flush=True)"
    with run(code) as engine:
        engine.pause()
        assert [event.message for event in engine.events(0.1) if isinstance(event, Log)] == ["pause"]
        assert engine.status() == 0
        engine.pause()  # it is gone: nobody minds


def test_memory_is_that_of_the_whole_tree(run: Callable[[str], Engine]) -> None:
    code = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'kept = bytes(1) * (200 << 20); print(1, flush=True); input()'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(json.dumps({'type': 'log', 'message': 'full'}), file=pipe, flush=True)\n"
        "sys.stdin.readline()"
    )
    with run(code) as engine:
        next(event for event in engine.events(0.1) if isinstance(event, Log))
        assert 200 << 20 < engine.usage().memory_bytes < 400 << 20
        engine.kill()
        engine.process.wait()
        assert engine.usage().memory_bytes == 0


def test_it_can_ask_whom_the_kernel_ended_for_want_of_memory(run: Callable[[str], Engine]) -> None:
    code = "print(json.dumps({'type': 'log', 'message': open('/proc/vmstat').read()[-4000:]}), file=pipe, flush=True)"
    with run(code) as engine:
        told = next(event for event in engine.events(600) if isinstance(event, Log))
    assert "\noom_kill " in told.message


def test_last_words_are_its_own_whatever_it_makes_of_the_name_of_its_log(run: Callable[[str], Engine], tmp_path: Path) -> None:
    (tmp_path / "database").write_text("of others")
    code = (
        "import pathlib\nprint('mine', flush=True)\nlog = pathlib.Path('engine.log'); log.unlink(); log.symlink_to('database')"
    )
    with run(code) as engine:
        assert list(engine.events(600)) == []
        assert engine.status() == 0
        assert (tmp_path / "engine.log").read_text() == "of others"
        assert engine.last_output() == "mine"


def test_last_words_are_whole_lines_without_what_moves_a_terminal(run: Callable[[str], Engine]) -> None:
    code = "print('x' * 900 + ' cut \\x1b[0m away'); print('\\x1b[1;31mMISSING\\x1b[0m | \\x07joblib', flush=True)"
    with run(code) as engine:
        assert list(engine.events(600)) == []
        assert engine.last_output(50) == "MISSING | joblib"
    killed = describe_end(-9, "MISSING | joblib")
    assert killed == "SIGKILL ended it."  # from outside: what it last wrote says nothing about that
    assert describe_end(-6, "bad_alloc") == "SIGABRT ended it. It last wrote: bad_alloc"
    assert describe_end(-99, "") == "Signal 99 ended it."
    assert describe_end(125, "no such file") == "Its exit status is 125. It last wrote: no such file"


def test_the_environment_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LATHE_DATABASE_URL", "LATHE_S3_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "LATHE_BROKER_URL"):
        monkeypatch.setenv(name, "secret")
    assert "secret" not in child_environment(tmp_path, 1.0).values()


@pytest.mark.parametrize("compiler", ["gcc-14", None])
def test_the_compiler_that_the_operator_names_reaches_the_engine(
    compiler: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    if compiler is not None:
        monkeypatch.setenv("CC", compiler)
    assert child_environment(tmp_path, 1.0).get("CC") == compiler
