"""Watching a job on the real API, from a process of one's own as in a terminal: through a restart, and away from it."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.jobs import fencing, jobs, stage_results
from client.terminal.job_view import validation
from client.terminal.render import MINUS
from tests.client.conftest import Command, Live
from tests.client.figures import report, validated
from tests.client.test_cli import succeed
from tests.conftest import ROOT, wait_for


def run(home: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    command, env = [sys.executable, "-m", "client", *arguments], {**os.environ, "LATHE_HOME": str(home)}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **{"env": env, **options})


def watching(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    # As a terminal starts it: a suite in the background of a shell ignores SIGINT, and so would its children.
    interruptible = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with (home / "out").open("wb") as out, (home / "err").open("wb") as err:
        return run(home, *arguments, stdout=out, stderr=err, preexec_fn=interruptible)


def said(home: Path, name: str = "err") -> str:
    return (home / name).read_text(encoding="utf-8")


def log(session: Session, claim: fencing.Claim, number: int) -> None:
    jobs.record_event(session, claim, "log", {"level": "info", "message": f"line {number} of it"})


def test_a_watch_goes_through_a_restart_of_the_service_and_misses_nothing(live: Live, home: Path, job: str) -> None:
    claim = live.claim(job)
    found = report()
    watch = watching(home, "watch", job)
    live.do(claim, lambda session, claim: log(session, claim, 1))
    live.do(claim, lambda session, claim: stage_results.record_stage(session, claim, found.rows[0], "p", [], []))
    wait_for(lambda: "line 1 of it" in said(home) and "baseline done" in said(home))

    live.service.kill("api")
    for number in (2, 3):
        live.do(claim, lambda session, claim, number=number: log(session, claim, number))
    for row in found.rows[1:]:
        live.do(claim, lambda session, claim, row=row: stage_results.record_stage(session, claim, row, "p", [], []))
    live.service.start_api()
    wait_for(lambda: "line 3 of it" in said(home))
    live.do(claim, lambda session, claim: log(session, claim, 4))
    live.do(claim, lambda session, claim: jobs.finish(session, claim, found.model_dump(mode="json"), []))

    assert watch.wait(120) == 0
    lines = [line for line in said(home).splitlines() if "of it" in line]
    assert [line.split("line ")[1] for line in lines] == [f"{number} of it" for number in (1, 2, 3, 4)]
    assert "stage_finished stage=distilled" in said(home)
    assert "13.00 M (−35.0 %)" in said(home, "out")


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_come_back(live: Live, home: Path, command: Command, job: str) -> None:
    for arguments in (("watch", job), ("wait", job), ("logs", job, "-f")):
        watch = watching(home, *arguments)
        wait_for(lambda: "queued" in said(home) + said(home, "out"))
        os.kill(watch.pid, signal.SIGINT)
        assert watch.wait(60) == 130
        assert f"{job} goes on. Come back: lathe watch {job}; stop it: lathe cancel {job}" in said(home)
        assert "Traceback" not in said(home)
    assert json.loads(command("show", job, "--json").out)["state"] == "queued"


def test_a_program_gets_a_line_for_each_change(live: Live, command: Command, job: str) -> None:
    live.end(job, jobs.mark_cancelled)
    ran = command("watch", job, "--json")
    assert ran.code == 3
    assert [json.loads(line)["state"] for line in ran.out.splitlines()] == ["cancelled"]


@pytest.mark.parametrize("arguments", [("watch",), ("watch", "--json"), ("wait",)], ids=" ".join)
def test_a_watch_ends_when_its_time_is_over(live: Live, command: Command, job: str, arguments: tuple[str, ...]) -> None:
    assert command(arguments[0], job, *arguments[1:], "--timeout", "1").code == 4


def on_a_terminal(home: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command whose stdout and stderr are a terminal; return its exit code and what was drawn."""
    reader, writer = os.openpty()
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    env = {**plain, "LATHE_HOME": str(home), "TERM": "xterm-256color", "COLUMNS": "150", **environment}
    command = run(home, *arguments, env=env, stdout=writer, stderr=writer)
    os.close(writer)
    drawn = b""
    try:
        while chunk := os.read(reader, 65536):
            drawn += chunk
    except OSError:  # what Linux says where the last writer has gone
        pass
    os.close(reader)
    return command.wait(60), drawn.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-9]|38;5;[0-9]+|9[0-7])\b[0-9;]*m")


def test_bars_are_drawn_on_a_terminal_and_no_color_is_respected(live: Live, home: Path, job: str) -> None:
    live.end(job, succeed)
    code, text = on_a_terminal(home, "watch", job)
    assert code == 0
    for stage in ("baseline", "quantized", "pruned", "distilled", "job"):
        assert f"{stage:<10}" in text
    assert "━" in text
    assert "13.00 M (−35.0 %)" in text
    assert COLOUR.search(text)
    code, text = on_a_terminal(home, "watch", job, NO_COLOR="1")
    assert code == 0
    assert "━" in text
    assert not COLOUR.search(text)


def test_ids_are_whole_on_narrow_terminals_and_rows_in_pipes(live: Live, home: Path, command: Command, job: str) -> None:
    long = "the head has 3 labels and the data has 2: " + ", ".join(f"label {number}" for number in range(60))
    error = {"code": "label_mismatch", "cause": long, "remedy": "Send two.", "param": "models.base"}
    live.end(job, lambda session, claim: jobs.fail(session, claim, error))
    code, text = on_a_terminal(home, "ls", COLUMNS="80")
    assert code == 0
    assert job in text
    listed = next(line for line in command("ls").out.splitlines() if job in line)
    assert long in listed


@pytest.mark.parametrize(
    ("score", "said"), [(0.93125, "93.1 %"), (-0.04, f"{MINUS}4.0 %"), (53.2289, "perplexity 53.23, lower is better")]
)
def test_a_perplexity_is_told_as_one(score: float, said: str) -> None:
    assert validation(score) == f"validation {said}"


def test_a_watch_ends_with_what_is_unproven(live: Live, command: Command, job: str) -> None:
    claim, found = live.claim(job), validated(is_converged=False)
    for row in found.rows:
        live.do(claim, lambda session, claim, row=row: stage_results.record_stage(session, claim, row, "p", [], []))
    live.do(claim, lambda session, claim: jobs.finish(session, claim, found.model_dump(mode="json"), []))
    seen = command("watch", job)
    assert "succeeded. baseline_not_converged: " in seen.err
    assert "99.4 % kept, 97.1 to 101.5 %, unproven" in seen.out + seen.err
