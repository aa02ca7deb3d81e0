"""Artifacts shipped as a job ships them, with what a test leaves open filled in, and runners that a test listens to."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compression.engine.shipping import ArtifactRequest, Rows, RunSettings, ShippedArtifact, ship
from compression.modalities.scoring.base import Floats, Row
from compression.modalities.text.inputs import Batch, Ids
from compression.schema.recipe.recipe import Evaluate
from compression.system.progress import run_silently


def shipped(model: PreTrainedModel, output: Path, rows: list[Row], to: Rows = lambda _: (), **changes: Any) -> ShippedArtifact:
    """Ship a model below output/artifacts, scored on these rows.

    Unless changes say otherwise it is the float32 ONNX baseline of a language model, whose tokenizer lies in
    output/tokenizer. to: the job's rows, for the card.
    """
    test_rows = output / "test.jsonl"
    test_rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    form: dict[str, Any] = {"kind": "onnx", "stage": "baseline", "precision": "float32", "max_length": 24}
    asked = {**form, "preprocessor": output / "tokenizer", "task": "causal-lm", "labels": (), "evaluate": Evaluate(length=16)}
    given = {**asked, "output": output, "rows": {"test": test_rows}, "sample": rows, **changes}
    own = {field.name for field in fields(ArtifactRequest)}
    request = ArtifactRequest(**{name: value for name, value in given.items() if name in own})
    settings = RunSettings(**{name: value for name, value in given.items() if name not in own})
    return run_silently(ship(model, request, settings, to))


class Wrapped:
    """A real runner that answers as it does, for a test to note what it is asked or to bend what it says."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name = inner, inner.name

    def logits(self, batch: Batch) -> Floats:
        return self.inner.logits(batch)

    def step(self, ids: Ids, cache: Any = None, mask: Ids | None = None) -> tuple[Floats, Any]:
        return self.inner.step(ids, cache, mask)
