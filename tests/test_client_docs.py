"""The examples of docs/client.md, run as they are printed, one after the other in one folder, against a service that works."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client.errors import EXITS, ClientError, Problem
from client.recipes import read
from tests.conftest import ROOT, Service, wait_for
from tests.support.examples import TINY_RECIPE, tiny_model, write_splits
from tests.support.images import folder_data
from tests.support.printed import as_script, blocks_of
from tests.support.saying import says
from tests.workers.test_images import stock_folder

TEXT = (ROOT / "docs/client.md").read_text(encoding="utf-8")
BLOCKS = blocks_of(TEXT)
TINY = {**TINY_RECIPE, "quantize": None, "distill": None}


def editor(folder: Path) -> Path:
    """What opens where `$EDITOR` is called for: somebody who makes the recipe small, and keeps a comment."""
    made = folder / "editor"
    text = "// small\n" + json.dumps(TINY, indent=2)
    made.write_text(f"#!/bin/sh\ncat > \"$1\" <<'END'\n{text}\nEND\n", encoding="utf-8")
    made.chmod(0o755)
    return made


@pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="no curl here: make setup-system")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_examples_do_what_they_say(service: Service, tmp_path: Path) -> None:
    service.start_workers("jobs", "checks", "keeper")
    here = tmp_path / "here"
    here.mkdir()
    tiny_model(here / "model")
    write_splits(here / "data")
    stock_folder("resnet", here / "vision")
    folder_data(here / "photos", train=20)
    env = {
        **os.environ,
        "LATHE_URL": service.url,
        "LATHE_KEY": service.database.key,
        "LATHE_HOME": str(tmp_path / "nothing"),
        "EDITOR": str(editor(tmp_path)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    command = ["bash", "-c", as_script(BLOCKS, here)]
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + service.log("jobs")
    out = done.stdout
    assert read(here / "recipe.jsonc") == TINY
    assert "recipe.jsonc is right" in out
    assert (here / "report.md").read_text().startswith("| stage |")
    assert (here / "both.csv").read_text().count("\n") == 3
    assert "ended with 3" in out
    assert "Nothing was submitted" in out
    assert "compressed" in out.split("report.md is written.")[1].split("small/")[0]
    assert re.search(r"wkr_\w+ +jobs .* alive .*, \d+ cores", out)
    numbers = [number for number, (language, _) in enumerate(BLOCKS) if language == "python"]
    sync, awaited, refused = (out.split(f"--- example{number}.py")[1].split("---")[0] for number in numbers)
    says(sync, "minutes, or so", "running, pruned: ", "bytes:", "manifest.json")
    for kind in ("queued", "claimed", "stage_finished", "succeeded"):
        assert awaited.count(f" {kind}\n") >= 2
    assert awaited.count("parameters\n") == 3
    assert refused.split("\n")[1:3] == ["invalid_recipe", "recipe.prune.ratio"]
    streamed = out[out.index("event: ") - 10 :]
    assert "event: succeeded" in streamed
    assert "event: queued" not in streamed  # that was seq 1
    with service.client() as http:

        def states() -> list[str]:
            return [job["state"] for job in http.get("/v1/jobs", params={"label": "of:docs"}).json()["items"]]

        wait_for(lambda: "running" not in states(), 120)  # the last was asked to stop while it ran
        assert states() == ["cancelled", "succeeded", "cancelled", "succeeded"]
    for folder in ("small", "best"):
        assert list((here / folder).rglob("manifest.json"))


def test_exit_codes_are_documented() -> None:
    for code, meaning in EXITS.items():
        assert f"| {code} | {meaning} |" in TEXT


def test_the_clients_own_errors_are_documented() -> None:
    kinds, codes = [ClientError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        codes |= set() if kind is Problem else {kind.code}
    table = TEXT.split("| code | when |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) - {"reasons"} == codes


def test_the_commands_are_documented() -> None:
    from client.cli import app

    named = {command.callback.__name__ for command in app.registered_commands if command.callback}
    named |= {group.name for group in app.registered_groups if group.name}
    table = TEXT.split("| command | what |")[1].split("\n\n")[0]
    assert {name for name in named if f"`{name.rstrip('_')}" not in table} == set()
