"""What a report says of a scheme's checkpoints: only of jobs that ship one."""

import pytest

from compression.engine.reporting.dataset_facts import DatasetSummary, job_report
from compression.schema.job_spec import Data, Spec
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Uploaded
from compression.schema.schemes import SCHEMES
from tests.client.figures import report


@pytest.mark.parametrize(
    ("kinds", "has"),
    [
        ((("onnx", "int8"),), False),
        ((("onnx", "int8"), ("transformers", "bfloat16")), False),
        ((("onnx", "int8"), ("transformers", "int8")), True),
        ((("onnx", "int8"), ("transformers", "mixed")), True),
    ],
)
def test_how_a_checkpoint_differs_is_said_where_there_is_one(kinds: tuple[tuple[str, str], ...], has: bool) -> None:
    known = report()
    form = known.artifacts[0]
    artifacts = [form.model_copy(update={"kind": kind, "precision": precision}) for kind, precision in kinds]
    spec = Spec(
        model="model",
        data=Data(format="jsonl", splits={"train": ("train.jsonl",)}),
        recipe=Recipe(quantize=Quantize(scheme="static-int8")),
        output="out",
    )
    about = {"": DatasetSummary(task=known.task, labels=known.labels, splits=known.splits, rows={}, cut=None)}
    found = job_report(spec, known.rows, artifacts, about, Uploaded(bytes=1, dtype="float32"))
    assert (SCHEMES["static-int8"].note in found.notes) == has
