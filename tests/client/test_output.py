"""What others wrote is shown as text, whatever is in it."""

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from client.errors import NotReady, Problem
from client.terminal import render
from client.terminal.output import console, emit, moving, say, show_error, table, write_json
from client.terminal.text import lines, one_line
from tests.client.figures import report
from tests.support.saying import says

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x1b[2J\x9b1A\x08\x7f"


def test_no_name_and_no_log_line_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    emit(None, f"name {TITLE}", table(("id", "name"), [("job", f"é\tü {CLEAR}")], empty="none"))
    say(f"next {TITLE}")
    console().print(f"10:00  {CLEAR}[bold]text", markup=False)
    console(stderr=True).print(Text(TITLE))
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    assert not [sign for sign in shown if not sign.isprintable() and sign != "\n"]
    says(shown, "owned", "é", "[bold]text")


FORGED = "mine\njob_1  another  succeeded\r\u2028job_2\x85job_3\x0bjob_4"
TURNED = "\u202eexe.gpj\u2066\u200f"


def test_no_name_forges_a_line_or_turns_one_round(capsys: pytest.CaptureFixture[str]) -> None:
    name = FORGED + TURNED
    problem = Problem(f"{name} is in use", status=409, code="in_use", remedy=name, param=name, request_id="r")
    hostile = report().model_copy(update={"notes": (name,), "choice": f"\n{name}"})

    def lines(show: Callable[[], object]) -> list[str]:
        show()
        shown = "".join(capsys.readouterr())
        assert not set(shown) & set(TURNED + "\r\u2028\x85\x0b") - set("exe.gpj")
        return shown.splitlines()

    assert len(lines(lambda: emit(None, f"{name}  {name}"))) == 1
    assert len(lines(lambda: emit(None, table(("id", "name"), [("job", name), (name, "name")], empty="none")))) == 3
    assert len(lines(lambda: say(f"\n{name} is being checked"))) == 1
    assert len(lines(lambda: show_error(problem))) == 4
    assert len(lines(lambda: show_error(NotReady(f"{name} was rejected: {name}", remedy=name)))) == 2
    written = lines(lambda: emit(None, render.report_table(hostile)))
    assert not [line for line in written if line.startswith("job_")]
    assert not [line for line in render.report_markdown(hostile).splitlines() if line.startswith("job_")]
    assert one_line(name).isprintable()


def test_json_says_the_same_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"é {FORGED}{TURNED}{CLEAR}"
    write_json({"name": name})
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 1
    assert shown.rstrip("\n").isprintable()
    assert "é" in shown
    assert json.loads(shown) == {"name": name}


def test_what_is_ours_is_still_coloured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    console().print(Text(f"red {CLEAR}", style="bold red"))
    assert capsys.readouterr().out.startswith("\x1b[1;31mred ")


def test_lines_of_a_file_that_is_shown_steer_no_terminal() -> None:
    assert lines("when,object\r\n1,\x1b]0;owned\x07\u202e\r\n") == "when,object\n1,\ufffd]0;owned\ufffd\ufffd\n"


def test_a_transfer_is_told_once_and_only_if_something_moves(capsys: pytest.CaptureFixture[str]) -> None:
    with moving("uploading it", 91_600_000):
        pass
    assert capsys.readouterr().err == ""
    with moving("uploading it", 91_600_000) as moved:
        assert moved is not None
        for _ in range(3):
            moved("model.safetensors", 30_000_000)
    assert capsys.readouterr().err == "uploading it: 91.6 MB\n"


def test_a_table_that_is_wider_than_the_terminal_cuts_no_word() -> None:
    rows = [("job_1", "a name of words", "succeeded"), ("job_2", "another", "queued")]
    found = table(("id", "name", "state"), rows, empty="none")

    def shown(width: int, what: RenderableType) -> str:
        out = Console(file=io.StringIO(), width=width)
        out.print(what)
        return out.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    assert len(shown(60, found).splitlines()) == 3
    narrow = shown(24, found)
    says(narrow, "id job_1", "  name: a name of words", "  state: succeeded", "id job_2")
    assert "…" not in narrow
    words = {word for cell in (*render.HEADERS, *render.cells(report().rows[-1])) for word in cell.split()}
    for width in (80, 200):
        assert not [word for word in words if word not in shown(width, render.row_table(report().rows))]


NAMED = "a name of many words that fills all of fifty signs"
LISTS = (
    (("id", "name", "state"), [("job_0123456789abcdef", NAMED, "succeeded"), ("job_2", "another", "queued")]),
    (
        ("id", "name", "state", "created (UTC)", "now"),
        [("job_0123456789abcdef", NAMED, "running", "2026-11-29 10:00", "the stage pruned")],
    ),
    (
        ("id", "may", "created (UTC)", "ends (UTC)", "last used (UTC)", "made by", "name"),
        [("key_0123456789abcdef", "write", "2026-11-29 10:00", None, "2026-11-29 11:00", "key_0123456789abcdef", NAMED)],
    ),
)


@pytest.mark.parametrize(("columns", "rows"), LISTS)
def test_no_width_cuts_an_id_or_drops_a_column(columns: tuple[str, ...], rows: list[tuple[str | None, ...]]) -> None:
    found = table(columns, rows, empty="none")
    for width in range(40, 141):
        out = io.StringIO()
        Console(file=out, width=width).print(found)
        shown = out.getvalue()
        words = {word for line in (columns, *rows) for cell in line for word in (cell or "–").split()}
        assert not [word for word in words if word not in shown], width
        assert max(map(len, shown.splitlines())) <= width
