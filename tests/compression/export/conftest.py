"""The tiny classifier as three artifacts, shipped once for all tests of export and measuring."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.engine.shipping import ArtifactRequest, RunSettings, ShippedArtifact, ship
from compression.export.provenance import InputFile, Origin
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.recipe.presets import PRESETS
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.measurements import Row
from compression.system.progress import run_silently
from tests.support.tiny_bert import sentences, tiny_config
from tests.support.verdict_rows import BASELINE, QUANTIZED

LABELS = ("negative", "positive")
MAX_LENGTH = 16


@dataclass(frozen=True)
class Shipment:
    """Folders and figures of the FP32 and INT8 ONNX artifacts and of the torchao checkpoint of one model."""

    model: BertForSequenceClassification
    rows: list[tuple[str, str]]
    output: Path
    baseline: ShippedArtifact
    int8: ShippedArtifact
    checkpoint: ShippedArtifact

    def folder(self, shipped: ShippedArtifact) -> Path:
        return self.output / "artifacts" / shipped.artifact.name


@pytest.fixture(scope="session")
def tiny_classifier() -> BertForSequenceClassification:
    """A random classifier whose biases are not zero, so that losing one shows."""
    torch.manual_seed(1)
    model = BertForSequenceClassification(tiny_config(num_labels=2)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="session")
def tiny_shipment(
    tiny_classifier: BertForSequenceClassification, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Shipment:
    output = tmp_path_factory.mktemp("output")
    rows = sentences(60, seed=5)
    test_rows = output / "test.jsonl"
    test_rows.write_text("".join(json.dumps({"text": text, "label": LABELS.index(label)}) + "\n" for text, label in rows))
    (output / "LICENSE").write_text("MIT License")
    origin = Origin(
        license="mit",
        said_in="LICENSE",
        base="org/tiny",
        licenses=(output / "LICENSE",),
        recipe=PRESETS["quick"][0],
        command="lathe submit --model MODEL --data DATA --recipe recipe.json --wait",
        sent=(InputFile("model", "model.safetensors", "0" * 64),),
        versions={"lathe": "0.1"},
    )

    def rows_to(shipped: ShippedArtifact) -> list[Row]:
        return [BASELINE] if shipped.artifact.stage == "baseline" else [BASELINE, QUANTIZED]

    settings = RunSettings(
        task="text-classification",
        labels=LABELS,
        evaluate=Evaluate(length=16),
        output=output,
        rows={"test": test_rows},
        sample=[{"text": text} for text, _ in rows[:16]],
        origin=origin,
        emulate_seconds=120.0,
    )
    asked = {"tokenizer": encoder, "max_length": MAX_LENGTH}
    first = ArtifactRequest(kind="onnx", stage="baseline", precision="float32", **asked)
    baseline, model = settings.place_of(first), copy.deepcopy(tiny_classifier)
    made = [run_silently(ship(model, first, settings, rows_to))]
    insert_fake_quantization(model)
    for kind in ("onnx", "transformers"):
        request = ArtifactRequest(kind=kind, stage="quantized", precision="int8", baseline=baseline, **asked)
        made.append(run_silently(ship(model, request, settings, rows_to)))
    return Shipment(tiny_classifier, rows, output, *made)
