"""A run of the bench is taken up only by the same run, and found again by what it was asked for."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import engine
from bench.language.__main__ import recipe_of
from compression.schema.job_spec import Data, Spec
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, Recipe

SPEC: dict[str, Any] = {"model": "model", "data": Data(format="jsonl", splits={"train": ("a",)}), "recipe": Recipe()}


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a finished run leaves it; whatever runs again stops at once."""

    def stopped(folder: Path, _minutes: float | None) -> None:
        raise InterruptedError(folder)

    monkeypatch.setattr(engine, "_attempt", stopped)
    folder = tmp_path / "run"
    with pytest.raises(InterruptedError):
        engine.run(folder, SPEC)
    (folder / "done.json").write_text(json.dumps({"validation": {}, "seconds": 1.0}))
    return folder


def test_another_recipes_run_is_not_taken_for_it(finished: Path) -> None:
    with pytest.raises(InterruptedError):
        engine.run(finished, {**SPEC, "recipe": Recipe(prune=Prune(ratio=0.5))})
    assert not (finished / "done.json").exists()
    assert json.loads((finished / "spec.json").read_text())["recipe"]["prune"]["ratio"] == 0.5


def test_the_same_run_is_known_by_what_it_asks_and_not_by_how_its_file_says_it(finished: Path) -> None:
    said = json.loads((finished / "spec.json").read_text())
    del said["recipe"]["distill"]["spill_gib"]  # as a version wrote it that had no such key
    (finished / "spec.json").write_text(json.dumps({**said, "threads": 1}))
    with pytest.raises(FileNotFoundError, match=r"report\.json"):  # it is done: what is read next is the report
        engine.run(finished, {**SPEC, "threads": 2})
    assert (finished / "done.json").exists()


@pytest.mark.parametrize(("by", "told"), [("here", ""), (None, "left by an earlier version"), ("0123abc", "left by 0123abc")])
def test_it_is_said_where_a_run_that_is_found_is_of_other_code(
    by: str | None, told: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"validation": {}, "seconds": 1.0, **({} if by is None else {"revision": by.replace("here", engine.revision())})}
    (finished / "done.json").write_text(json.dumps(facts))
    with pytest.raises(FileNotFoundError, match=r"report\.json"):
        engine.run(finished, SPEC)
    said = capsys.readouterr().out
    assert told in said
    assert bool(said) == bool(told)


def test_a_run_begins_with_what_another_kept(finished: Path, tmp_path: Path) -> None:
    (finished / "kept" / "quantized").mkdir()
    (finished / "kept" / "quantized" / "state.json").write_text("{}")
    with pytest.raises(InterruptedError):
        engine.run(tmp_path / "other", {**SPEC, "recipe": Recipe(distill=None)}, after=finished)
    assert (tmp_path / "other" / "kept" / "quantized" / "state.json").is_file()
    assert (finished / "kept" / "quantized" / "state.json").is_file()


@pytest.mark.parametrize(("epochs", "same"), [(1, True), (2, False)])
def test_what_was_asked_before_is_known_once_it_was_written(epochs: int, same: bool, tmp_path: Path) -> None:
    data = Data(format="jsonl", splits={"train": ("train.jsonl",), "test": ("test.jsonl",)})
    about = {"task": "causal-lm", "model": "model", "data": data, "evaluate": Evaluate(tokens=10**9)}
    asked = Spec(**about, recipe=recipe_of(1, None, 0), threads=1, output="out")
    (tmp_path / "spec.json").write_text(asked.model_dump_json())
    again = asked.model_copy(update={"recipe": recipe_of(epochs, None, 0), "threads": 2})
    assert engine._is_same(tmp_path / "spec.json", again) == same


ENGINE_THAT_PAUSES = """
import json, pathlib, sys
folder = pathlib.Path(json.load(open(sys.argv[1]))["output"]) / "checkpoints" / "training-1"
folder.mkdir(parents=True)
(folder / "state").write_text("saved")
line = sys.stdin.readline()
if line == "pause\\n":
    where = {"stage": "baseline", "phase": "tune", "step": 1, "total": 2, "folder": "training-1", "files": []}
    saved = {"type": "training_saved", **where}
    for event in (saved, {"type": "paused"}):
        print(json.dumps(event), flush=True)
    sys.exit(3)
"""
"""Its end of the agreement: it reads a line, saves, says so, and ends with 3."""


def test_a_call_ends_with_its_minutes_and_what_was_saved_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "engine.py"
    script.write_text(ENGINE_THAT_PAUSES)
    monkeypatch.setattr(engine, "ENGINE", [sys.executable, str(script)])
    with pytest.raises(engine.Stopped, match=r"stopped after 1\.01 minutes; the same command goes on"):
        engine.run(tmp_path / "run", SPEC, minutes=1.01)
    assert (tmp_path / "run" / "kept" / "training" / "state").read_text() == "saved"
    assert not (tmp_path / "run" / "done.json").exists()


def test_an_engine_that_does_not_pause_in_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "engine.py"
    script.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(engine, "ENGINE", [sys.executable, str(script)])
    monkeypatch.setattr(engine, "STOP_SECONDS", 0.5)
    with pytest.raises(engine.Stopped, match="goes on from the last save"):
        engine.run(tmp_path / "run", SPEC, minutes=1 / 60)
