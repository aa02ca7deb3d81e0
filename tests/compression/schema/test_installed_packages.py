"""Packages beside Lathe add to its registries by entry points; one that is broken is named, and takes nothing down."""

import json
import os
import subprocess
import sys
from pathlib import Path

from compression.schema.tasks import TASKS
from tests.support import toy

BROKEN = """
from compression.schema.config import Config
from compression.schema.specs import CLASSIFIER, CardText, FormatSpec, ModalitySpec, StageSpec, TaskSpec

TEXT = CardText("A toy", "other", "label")
TWICE = ModalitySpec("twice", (TaskSpec("causal-lm", CLASSIFIER, ("jsonl",), ("accuracy",), TEXT),), "broken:X")
LATE = StageSpec("late", "late", "broken:STAGE", after="never", settings=Config)
EARLY = StageSpec("early", "early", "broken:STAGE", after="final", settings=Config)
FINAL = StageSpec("final", "final", "broken:STAGE", after="distilled", settings=Config)
ALWAYS = StageSpec("always", "always", "broken:STAGE", after="distilled")
TRAIN = StageSpec("trains", "train", "broken:STAGE", after="distilled", settings=Config)
LONG = StageSpec("a" * 17, "long", "broken:STAGE", after="distilled", settings=Config)
FORMAT = {"engine": "broken:X", "runtime": "broken:open", "runs_in": "Toy", "weights": ("*.tape",)}
AGAIN = FormatSpec("onnx", **FORMAT)
FIRST = FormatSpec("first", **FORMAT, primary=True)
ODD = FormatSpec("Odd/one", **FORMAT)
"""
POINTS = {
    "lathe.modalities": {"twice": "broken:TWICE", "absent": "broken_that_is_not_there:TOY", "wrong": "broken:CLASSIFIER"},
    "lathe.stages": {name: f"broken:{name.upper()}" for name in ("always", "early", "final", "late", "long", "train")},
    "lathe.exporters": {"again": "broken:AGAIN", "first": "broken:FIRST", "odd": "broken:ODD", "gone": "broken:GONE"},
}
ASKED = """
import json, sys
from pydantic import TypeAdapter
from compression.planning.on_disk import untrained
from compression.schema.errors import UnreadableData
from compression.schema.job_spec import Data, DataCheck, check_data
from compression.schema.recipe.base import Task
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.report import Artifact
from compression.schema.stages import wanted

check_data("vector-classification", Data.model_validate({"format": "ndjson", "splits": {"train": ["a"]}}))
try:
    check_data("text-classification", Data.model_validate({"format": "ndjson", "splits": {"train": ["a"]}}))
except UnreadableData as problem:
    refused = problem.cause
asked = DataCheck.model_validate({"task": "vector-classification", "data": {"format": "ndjson", "splits": {"train": ["a"]}}})
recipe = Recipe.model_validate({"round_small": {"share": 0.5}})
stages = {"rows": wanted(recipe.model_dump()), "without": wanted(Recipe().model_dump()), "share": recipe.round_small.share}
found = {"tasks": TypeAdapter(Task).json_schema()["enum"], "asked": asked.task, "refused": refused, **stages}
files = {"prepare": {"epochs": 0}, "prune": None, "distill": None}
found["on_disk"] = [untrained(Recipe.model_validate(files | more)) for more in ({}, {"round_small": {}})]
found["kinds"] = Artifact.model_json_schema()["properties"]["kind"]["enum"]
both = Recipe.model_validate({"early": {}, "final": {}}).model_dump()
found["in_order"], found["stored"] = wanted(both)[4:], sorted({"early", "final", "round_small"} & Recipe().model_dump().keys())
print(json.dumps({**found, "torch": "torch" in sys.modules}))
"""


def test_an_installed_package_adds_to_the_registries_and_a_broken_one_is_left_out_by_name(tmp_path: Path) -> None:
    toy.install(tmp_path)
    (tmp_path / "broken.py").write_text(BROKEN)
    toy.write_entry_points(tmp_path, "broken", POINTS)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    ran = subprocess.run([sys.executable, "-c", ASKED], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["asked"], found["tasks"][-1], len(found["tasks"])) == (*["vector-classification"] * 2, len(TASKS) + 1)
    assert found["refused"] == "text-classification is not read from ndjson"
    assert not found["torch"]
    assert found["kinds"] == ["onnx", "transformers", "timm", "openvino-int8", "openvino-f16", "numpy"]
    assert found["on_disk"] == [True, False]
    assert found["rows"] == ["baseline", "quantized", "pruned", "rounded", "distilled"]
    assert (found["without"], found["share"]) == (["baseline", "quantized", "pruned", "distilled"], 0.5)
    assert found["in_order"] == ["final", "early"]  # though by its name early comes first
    assert found["stored"] == []  # a job that does not use a package can be read without it
    for left_out in (
        "twice of lathe.modalities (broken:TWICE) is left out: there is already causal-lm",
        "absent of lathe.modalities (broken_that_is_not_there:TOY) is left out: No module named 'broken_that_is_not_there'",
        "wrong of lathe.modalities (broken:CLASSIFIER) is left out: it is of type Head, not ModalitySpec",
        "again of lathe.exporters (broken:AGAIN) is left out: there is already a format 'onnx'",
        "first of lathe.exporters (broken:FIRST) is left out: the primary format is onnx",
        "odd of lathe.exporters (broken:ODD) is left out: 'Odd/one' has other characters than a-z, 0-9 and single hyphens",
        "gone of lathe.exporters (broken:GONE) is left out: module 'broken' has no attribute 'GONE'",
        "late of lathe.stages (broken:LATE) is left out: it follows 'never', which is no stage",
        "always of lathe.stages (broken:ALWAYS) is left out: it has no `after` or no `settings`: every job would have it",
        "train of lathe.stages (broken:TRAIN) is left out: a recipe cannot have the key 'train'",
        "long of lathe.stages (broken:LONG) is left out: 'aaaaaaaaaaaaaaaaa' is not a name of 1 to 16 characters a-z and 0-9",
    ):
        assert left_out in ran.stderr


FINGERPRINTS = """
import sys
from pathlib import Path
from compression.engine.checkpoints import fingerprint_facts
from compression.schema.errors import MissingResource
from compression.schema.job_spec import Spec

base = Path(sys.argv[1])
(base / "model").mkdir()
(base / "rows.jsonl").write_text("{}")
data = {"format": "jsonl", "splits": {"train": ["rows.jsonl"], "test": ["rows.jsonl"]}}
job = {"model": "model", "data": data, "output": "out"}
print(*fingerprint_facts(Spec.model_validate(job), base))
try:
    fingerprint_facts(Spec.model_validate({**job, "recipe": {"early": {}}}), base)
except MissingResource as problem:
    print(problem.cause)
"""


def test_a_stage_whose_engine_half_cannot_be_loaded_ends_only_the_jobs_that_use_it(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    toy.write_entry_points(tmp_path, "broken", {"lathe.stages": POINTS["lathe.stages"]})
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-c", FINGERPRINTS, str(tmp_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    without, cause = ran.stdout.splitlines()
    assert without == "baseline quantized pruned distilled"
    assert "early" in cause
    assert "cannot be loaded" in cause
