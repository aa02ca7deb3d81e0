"""The tiny classifier as three artifacts, shipped as a job ships them: fixtures, in tests/compression/conftest.py."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.engine import shipping
from compression.engine.shipping import ShippedArtifact
from compression.export.provenance import InputFile, Origin
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.recipe.presets import PRESETS
from compression.schema.report.measurements import Row
from tests.support.measuring import briefly
from tests.support.shipments import shipped
from tests.support.tiny_bert import sentences, tiny_config
from tests.support.verdict_rows import BASELINE, QUANTIZED

LABELS = ("negative", "positive")
MAX_LENGTH = 16


@dataclass(frozen=True)
class Shipment:
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
    return ship_tiny(tiny_classifier, encoder, tmp_path_factory.mktemp("output"))


def ship_tiny(classifier: BertForSequenceClassification, encoder: Path, output: Path, **settings: Any) -> Shipment:
    """Ship the three, measured in this process: tests of measuring have a fresh one come to the same."""
    rows = sentences(60, seed=5)
    judged = [{"text": text, "label": LABELS.index(label)} for text, label in rows]
    (output / "LICENSE").write_text("MIT License")
    own = {"license": "mit", "stated_in": "LICENSE", "base": "org/tiny", "licenses": (output / "LICENSE",)}
    command = "lathe submit --model MODEL --data DATA --recipe recipe.json --wait"
    sent = (InputFile("model", "model.safetensors", "0" * 64),)
    origin = Origin(**own, recipe=PRESETS["quick"][0], command=command, sent=sent, versions={"lathe": "0.1"})

    def rows_to(shipped: ShippedArtifact) -> list[Row]:
        return [BASELINE] if shipped.artifact.stage == "baseline" else [BASELINE, QUANTIZED]

    asked = {"task": "text-classification", "labels": LABELS, "preprocessor": encoder, "max_length": MAX_LENGTH}
    common = {**asked, "origin": origin, "sample": [{"text": text} for text, _ in rows[:16]], **settings}
    model = copy.deepcopy(classifier)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipping, "measure_artifact", briefly)
        made = [shipped(model, output, judged, rows_to, **common)]
        insert_fake_quantization(model)
        later = {**common, "stage": "quantized", "precision": "int8", "baseline": output / "artifacts" / made[0].artifact.name}
        made += [shipped(model, output, judged, rows_to, kind=kind, **later) for kind in ("onnx", "transformers")]
    return Shipment(classifier, rows, output, *made)
