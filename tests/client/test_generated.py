"""A client that openapi-python-client makes of the application's own OpenAPI document does a user's whole journey."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from app.main import app
from scripts import venvs
from tests.conftest import Service
from tests.support.examples import tiny_model, write_splits

SHORT = {"prepare": {"epochs": 1, "rate": 1e-3}, "quantize": None, "prune": None, "distill": None, "train": {"max_length": 32}}
"""A recipe that only gives the model a head and tunes it: seconds, and its artifact is there to download."""
JOURNEY = Path(__file__).with_name("generated_journey.py")


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """The folder with the package `lathe_api`; a warning of its maker is an error."""
    python = venvs.make("contract")
    document, folder = tmp_path / "openapi.json", tmp_path / "generated"
    document.write_text(json.dumps(app.openapi()))
    folder.mkdir()
    command = [python.with_name("openapi-python-client"), "generate", "--path", document, "--meta", "none", "--fail-on-warning"]
    env = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}  # it formats what it makes by its own ruff
    command += ["--output-path", folder / "lathe_api"]
    made = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "WARNING" not in made.stdout + made.stderr
    return folder


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_generated_client_goes_from_sign_in_to_download(generated: Path, service: Service, tmp_path: Path) -> None:
    service.start_workers("jobs", "checks", "keeper")
    model, data = tiny_model(tmp_path / "tiny"), write_splits(tmp_path / "data", 64)
    recipe, out = tmp_path / "recipe.json", tmp_path / "out"
    recipe.write_text(json.dumps(SHORT))
    command = [venvs.python_of("contract"), JOURNEY, service.url, service.database.key, model, data, recipe, out]
    env = {**os.environ, "PYTHONPATH": str(generated)}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr + service.log("jobs")[-3000:]
    found = json.loads(ran.stdout)
    assert (found["refused"], found["unknown"]) == ([422, "invalid_recipe", "recipe"], [404, "not_found"])
    assert (found["mine"], found["same"], found["jobs"]) == (["first"], True, [found["job"]])
    assert (found["state"], found["error"], found["stages"]) == ("succeeded", None, ["baseline"])
    assert (found["events"][0], found["events"][-1]) == ("queued", "succeeded")
    assert {name.split("/")[0] for name in found["files"]} >= {found["headline"]}
    assert found["files"] == {name: (out / name).stat().st_size for name in found["files"]}
