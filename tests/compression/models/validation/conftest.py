"""A whole model folder, to be damaged by the tests, and a writer of safetensors that can lie."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compression.engine.commands.validate import validate
from compression.schema.job_spec import ModelCheck
from compression.schema.validation import ModelFacts, Rejected


@pytest.fixture
def tiny_model(encoder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(encoder, folder)
    return folder


def judged(folder: Path) -> ModelFacts:
    found = validate(ModelCheck(path=str(folder)), Path.cwd())
    assert isinstance(found, ModelFacts), found
    return found


def reasons(folder: Path) -> dict[str, str]:
    """Return code → cause of a rejection, and see that each reason is complete."""
    found = validate(ModelCheck(path=str(folder)), Path.cwd())
    assert isinstance(found, Rejected), found
    for reason in found.reasons:
        assert reason["cause"]
        assert reason["remedy"]
        assert reason["param"]
    return {str(reason["code"]): str(reason["cause"]) for reason in found.reasons}


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
