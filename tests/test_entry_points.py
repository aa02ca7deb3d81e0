"""Every command of scripts/, bench/ and tests/ parses its arguments: it prints help, and refuses unknown options."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import benches
from tests.conftest import ROOT

RUN = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "scripts").glob("*.py"))
PLACES = [*(ROOT / "bench").rglob("*.py"), *(ROOT / "tests").rglob("__main__.py")]
MODULES = sorted(str(path.relative_to(ROOT)) for path in PLACES if RUN.search(path.read_text(encoding="utf-8")))
COMMANDS = [[name] for name in (*SCRIPTS, *MODULES)] + [["bench/__main__.py", name] for name in benches()]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_prints_help_and_refuses_unknown_options(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name, *chosen = command
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.fail("a process was started"))
    for option, code in (("--help", 0), ("--no-such-option", 2)):
        monkeypatch.setattr(sys, "argv", [name, *chosen, option])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        assert ended.value.code == code
        printed = capsys.readouterr()
        assert "usage: " in (printed.out if code == 0 else printed.err)
    assert not list(tmp_path.iterdir())


def test_the_commands_are_found() -> None:
    assert {"scripts/fetch_examples.py", "scripts/demo.py"} <= set(SCRIPTS)
    assert {"bench/__main__.py", "bench/api/half_open.py", "bench/glue/__main__.py", "tests/chaos/__main__.py"} <= set(MODULES)
    assert all(RUN.search((ROOT / name).read_text(encoding="utf-8")) for name in SCRIPTS)
