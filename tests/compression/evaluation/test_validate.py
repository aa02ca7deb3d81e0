"""The command answers with one JSON object whatever it is given, and needs no torch for it."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compression.engine.commands.validate import MOST_REASONS, validate
from compression.schema.errors import ALL_ERRORS
from compression.schema.job_spec import ModelCheck
from compression.schema.validation import ModelFacts, parse_finding


def ask(spec: str, folder: Path) -> bytes:
    path = folder / "spec.json"
    path.write_text(spec)
    done = subprocess.run([sys.executable, "-m", "compression", "validate", str(path)], capture_output=True, check=True)
    return done.stdout


def test_a_relative_path_is_taken_from_the_specs_folder(encoder: Path) -> None:
    assert isinstance(parse_finding.validate_json(ask(ModelCheck(path=".").model_dump_json(), encoder)), ModelFacts)
    (encoder / "spec.json").unlink()


@pytest.mark.parametrize("spec", ["{}", "nonsense", '{"kind": "model"}', '{"kind": "dataset", "data": {"format": "xls"}}'])
def test_a_spec_that_is_none_is_rejected_and_not_a_traceback(tmp_path: Path, spec: str) -> None:
    finding = parse_finding.validate_json(ask(spec, tmp_path))
    assert {reason["code"] for reason in finding.reasons} == {"invalid_spec"}


def test_validating_loads_no_torch(encoder: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from compression.schema.errors import ALL_ERRORS
from compression.schema.job_spec import ModelCheck
from compression.engine.commands.validate import validate
assert validate(ModelCheck(path={str(encoder)!r}), Path()).kind == "model"
assert not {{"torch", "transformers", "safetensors", "onnxruntime"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_flood_of_reasons_is_cut(tmp_path: Path) -> None:
    for number in range(3 * MOST_REASONS):
        (tmp_path / f"{number}.py").touch()
    assert len(validate(ModelCheck(path="."), tmp_path).reasons) == MOST_REASONS


def test_a_tokenizer_that_unpacks_without_end_ends_the_check_and_not_the_machine(encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    longer = {"type": "Replace", "pattern": {"Regex": "."}, "content": "e" * 50}
    normalizer = {"type": "Sequence", "normalizers": [longer] * 6}  # 50 to the 6th power characters for each one
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": normalizer}))
    (tmp_path / "spec.json").write_text(ModelCheck(path="model").model_dump_json())
    command = [sys.executable, "-m", "compression", "validate", str(tmp_path / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -signal.SIGABRT
    assert "memory allocation" in done.stderr


def test_what_no_check_thought_of_is_told_with_a_documented_code(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "compression.models.validation.model.check", lambda folder: {}[folder.name]
    )  # breaks as a bug of a check would
    (reason,) = validate(ModelCheck(path="."), encoder).reasons
    assert reason["code"] in {kind.code for kind in ALL_ERRORS}
    assert "KeyError" in str(reason["cause"])
