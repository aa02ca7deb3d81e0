"""What others wrote is shown as text, whatever is in it."""

import pytest
from rich.text import Text

from client import output
from client.output import console, emit, say, table

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x1b[2J\x9b1A\x08\x7f"


def test_no_name_and_no_log_line_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.reset()
    emit(None, f"name {TITLE}", table(("id", "name"), [("job", f"é\tü {CLEAR}")], empty="none"))
    say(f"next {TITLE}")
    console().print(f"10:00  {CLEAR}[bold]text", markup=False)
    console(stderr=True).print(Text(TITLE))
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    assert not [sign for sign in shown if not sign.isprintable() and sign != "\n"]
    assert "owned" in shown
    assert "é" in shown
    assert "[bold]text" in shown


def test_what_is_ours_is_still_coloured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    console().print(Text(f"red {CLEAR}", style="bold red"))
    assert capsys.readouterr().out.startswith("\x1b[1;31mred ")
