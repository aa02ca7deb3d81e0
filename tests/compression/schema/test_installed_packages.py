"""Packages beside Lathe add modalities and stages by entry points; one that is broken is named, and takes nothing down."""

import json
import os
import subprocess
import sys
from pathlib import Path

TOY = """
from dataclasses import replace
from compression.schema.config import Config
from compression.schema.specs import FormatSpec, StageSpec
from compression.schema.specs import CLASSIFIER, CardText, ModalitySpec, TaskSpec

TEXT = CardText("A toy", "other", "label")

TOY = ModalitySpec("vectors", (TaskSpec("vector-classification", CLASSIFIER, ("jsonl", "npz"), ("accuracy",), TEXT),), "toy:X")
TWICE = ModalitySpec("twice", (TaskSpec("causal-lm", CLASSIFIER, ("jsonl",), ("accuracy",), TEXT),), "toy:X")


class Sort(Config):
    '''Sort what is left.'''

    down: bool = False


SORT = StageSpec("sorted", "sort", "toy:STAGE", after="pruned", settings=Sort)
TAPE = FormatSpec("tape", engine="toy:X", runtime="toy:open", runs_in="Toy", weights=("*.tape",))
AGAIN = FormatSpec("onnx", engine="toy:X", runtime="toy:open", runs_in="Toy", weights=("*.onnx",))
FIRST = replace(TAPE, name="first", primary=True)
ODD = replace(TAPE, name="Odd/one")
LATE = StageSpec("late", "late", "toy:STAGE", after="never", settings=Sort)
"""
POINTS = (
    "[lathe.modalities]\nvectors = toy:TOY\ntwice = toy:TWICE\nbroken = toy_that_is_not_there:TOY\nwrong = toy:CLASSIFIER\n"
    "[lathe.stages]\nsort = toy:SORT\nlate = toy:LATE\n"
    "[lathe.exporters]\ntape = toy:TAPE\nagain = toy:AGAIN\nfirst = toy:FIRST\nodd = toy:ODD\ngone = toy:GONE\n"
)
ASKED = """
import json, sys
from pydantic import TypeAdapter
from compression.schema.errors import UnreadableData
from compression.schema.job_spec import Data, DataCheck, check_data
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.report import Artifact
from compression.schema.stages import wanted

check_data("vector-classification", Data.model_validate({"format": "npz", "splits": {"train": ["a"]}}))
try:
    check_data("text-classification", Data.model_validate({"format": "npz", "splits": {"train": ["a"]}}))
except UnreadableData as problem:
    refused = problem.cause
asked = DataCheck.model_validate({"task": "vector-classification", "data": {"format": "npz", "splits": {"train": ["a"]}}})
recipe = Recipe.model_validate({"sort": {"down": True}})
stages = {"rows": wanted(recipe.model_dump()), "without": wanted(Recipe().model_dump()), "down": recipe.sort.down}
found = {"tasks": TypeAdapter(Task).json_schema()["enum"], "asked": asked.task, "refused": refused, **stages}
found["kinds"] = Artifact.model_json_schema()["properties"]["kind"]["enum"]
print(json.dumps({**found, "torch": "torch" in sys.modules}))
"""


def test_an_installed_package_adds_its_tasks_and_stages_and_a_broken_one_is_left_out_by_name(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    info = tmp_path / "toy-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (info / "entry_points.txt").write_text(POINTS)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    ran = subprocess.run([sys.executable, "-c", ASKED], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["asked"], found["tasks"][-1], len(found["tasks"])) == (*["vector-classification"] * 2, 7)
    assert found["refused"] == "text-classification is not read from npz"
    assert not found["torch"]
    assert found["kinds"] == ["onnx", "transformers", "tape"]
    assert found["rows"] == ["baseline", "quantized", "pruned", "sorted", "distilled"]
    assert (found["without"], found["down"]) == (["baseline", "quantized", "pruned", "distilled"], True)
    for left_out in (
        "twice of lathe.modalities (toy:TWICE) is left out: there is already causal-lm",
        "broken of lathe.modalities (toy_that_is_not_there:TOY) is left out: No module named 'toy_that_is_not_there'",
        "wrong of lathe.modalities (toy:CLASSIFIER) is left out: it is of type Head, not ModalitySpec",
        "again of lathe.exporters (toy:AGAIN) is left out: there is already a format 'onnx'",
        "first of lathe.exporters (toy:FIRST) is left out: the primary format is onnx",
        "odd of lathe.exporters (toy:ODD) is left out: 'Odd/one' has other characters than a-z, 0-9 and single hyphens",
        "gone of lathe.exporters (toy:GONE) is left out: module 'toy' has no attribute 'GONE'",
        "late of lathe.stages (toy:LATE) is left out: it follows 'never', which is no stage",
    ):
        assert left_out in ran.stderr
