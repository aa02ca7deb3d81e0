"""A run of the engine is found again by what it was asked for."""

from pathlib import Path

import pytest

from bench import engine
from bench.language.__main__ import recipe_of
from compression.recipe import Data, Evaluate, Spec


@pytest.mark.parametrize(("epochs", "same"), [(1, True), (2, False)])
def test_what_was_asked_before_is_known_once_it_was_written(epochs: int, same: bool, tmp_path: Path) -> None:
    data = Data(format="jsonl", splits={"train": ("train.jsonl",), "test": ("test.jsonl",)})
    about = {"task": "causal-lm", "model": "model", "data": data, "evaluate": Evaluate(tokens=10**9)}
    asked = Spec(**about, recipe=recipe_of(1, None, 0), threads=1, output="out")
    (tmp_path / "spec.json").write_text(asked.model_dump_json())
    again = asked.model_copy(update={"recipe": recipe_of(epochs, None, 0), "threads": 2})
    assert engine._is_same(tmp_path / "spec.json", again) == same
