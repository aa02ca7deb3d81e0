"""Artifacts shipped as a job ships them, with what a test leaves open filled in, and runners that a test listens to."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compression.engine.shipping import ShippedArtifact, ship
from compression.modalities.scoring.base import Floats, Row
from compression.modalities.text.inputs import Batch, Ids
from compression.schema.recipe.recipe import Evaluate
from compression.system.progress import run_silently


def shipped(model: PreTrainedModel, output: Path, rows: list[Row], **changes: Any) -> ShippedArtifact:
    """Ship a model as output/artifacts/NAME, scored on these rows.

    Unless changes say otherwise it is the float32 ONNX baseline of a language model, whose tokenizer lies in output/tokenizer.
    """
    test_rows = output / "test.jsonl"
    test_rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    form: dict[str, Any] = {"name": "baseline", "kind": "onnx", "stage": "baseline", "precision": "float32", "baseline": None}
    asked: dict[str, Any] = {"task": "causal-lm", "labels": (), "tokenizer": output / "tokenizer", "max_length": 24}
    given = {**form, **asked, "output": output, "test_rows": test_rows, "evaluate": Evaluate(length=16), "sample": rows}
    return run_silently(ship(model, **(given | changes)))


class Wrapped:
    """A real runner that answers as it does, for a test to note what it is asked or to bend what it says."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name = inner, inner.name

    def logits(self, batch: Batch) -> Floats:
        return self.inner.logits(batch)

    def step(self, ids: Ids, cache: Any = None, mask: Ids | None = None) -> tuple[Floats, Any]:
        return self.inner.step(ids, cache, mask)
