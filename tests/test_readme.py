"""The README's way from nothing to a download, run as it is printed, with curl alone; only model, data and recipe are small."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Service
from tests.support.examples import TINY_RECIPE, tiny_model, write_splits

SET_UP = ("make setup", "fetch_examples")
"""Blocks and lines that the fixture takes the place of: installing, starting, fetching."""


def printed_commands() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## From nothing to a download, with curl alone")[1].split("\n## ")[0]
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if SET_UP[0] not in block]
    lines = "\n".join(blocks).splitlines()
    return "\n".join(line for line in lines if SET_UP[1] not in line and not line.startswith("export LATHE="))


@pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="no curl here: make setup-system")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_readme_leads_to_a_download(service: Service, tmp_path: Path) -> None:
    service.start_workers("jobs", "checks", "keeper")
    tiny_model(tmp_path / ".cache/examples/model")
    write_splits(tmp_path / ".cache/examples/data")
    script = printed_commands()
    assert '\\"recipe\\":\\"quick\\"' in script
    recipe = json.dumps({**TINY_RECIPE, "prune": None, "distill": None}).replace('"', '\\"')
    script = "set -eo pipefail\n" + script.replace('\\"recipe\\":\\"quick\\"', f'\\"recipe\\":{recipe}')
    env = {**os.environ, "LATHE": service.url, "KEY": service.database.key}
    command = ["bash", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + service.log("jobs")
    small = tmp_path / "small"
    manifest = json.loads((small / "manifest.json").read_text())
    assert len(manifest["files"]) > 3
    for file in manifest["files"]:
        assert hashlib.sha256((small / file["path"]).read_bytes()).hexdigest() == file["sha256"]
