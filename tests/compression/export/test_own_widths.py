"""What ships of an encoder whose layers have feed-forward widths of their own: graphs have them, checkpoints one for all."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.engine import shipping
from compression.engine.shipping import ShippedArtifact
from compression.models.adapters.layer_widths import KEY
from compression.models.adapters.registry import encoder_of
from compression.models.adapters.structure import PruningPlan
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from tests.support.measuring import briefly
from tests.support.openvino_files import openvino_constants
from tests.support.shipments import shipped
from tests.support.tiny_bert import sentences
from tests.support.tiny_shipment import LABELS, MAX_LENGTH

UNITS = (24, 40)
HIDDEN = 32


@pytest.fixture
def narrow(tiny_classifier: BertForSequenceClassification) -> PreTrainedModel:
    """A copy whose layers keep other numbers of units."""
    plan = PruningPlan({f"ffn.{number}": torch.arange(64 - units, 64) for number, units in enumerate(UNITS)})
    return encoder_of(tiny_classifier).narrowed(tiny_classifier, plan)


def ship(model: PreTrainedModel, encoder: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **form: Any) -> ShippedArtifact:
    """Ship a model as a job does: what is reopened answers as the model, or this raises ExportMismatch."""
    monkeypatch.setattr(shipping, "measure_artifact", briefly)
    rows = sentences(24, seed=5)
    judged = [{"text": text, "label": LABELS.index(label)} for text, label in rows]
    asked = {"task": "text-classification", "labels": LABELS, "preprocessor": encoder, "max_length": MAX_LENGTH}
    return shipped(model, output, judged, sample=[{"text": text} for text, _ in rows[:16]], **asked, **form)


def integers(model: PreTrainedModel, **scheme: Any) -> PreTrainedModel:
    insert_fake_quantization(model, simulation=Simulation(**scheme))
    return model


def folder_of(made: ShippedArtifact, output: Path) -> Path:
    return output / "artifacts" / made.artifact.name


def matrices(path: Path) -> set[tuple[int, ...]]:
    return {tuple(one.dims) for one in onnx.load(path).graph.initializer if len(one.dims) == 2}


@pytest.mark.parametrize("scheme", [None, "dynamic-int8"])
def test_an_onnx_file_has_each_layers_own_width(
    narrow: PreTrainedModel, scheme: Any, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, form = (narrow, {}) if scheme is None else (integers(narrow, scheme=scheme, portable=True), {"precision": "int8"})
    made = ship(model, encoder, tmp_path, monkeypatch, kind="onnx", **form)
    found = matrices(next(folder_of(made, tmp_path).glob("*.onnx")))
    assert all((HIDDEN, units) in found and (units, HIDDEN) in found for units in UNITS)
    assert made.artifact.trained_as_shipped
    assert "zeros" not in (folder_of(made, tmp_path) / "README.md").read_text()


FORMS = {
    "transformers": (None, "float32"),
    "transformers-int8": ({"scheme": "dynamic-int8"}, "int8"),
    "transformers-portable": ({"scheme": "dynamic-int8", "portable": True}, "int8"),
    "transformers-int4": ({"scheme": "weight-only-int4", "group_size": 8}, "int4"),
    "transformers-bf16": (None, "bfloat16"),
    "ct-w8a8": ({"scheme": "dynamic-int8", "portable": True}, "int8"),
}


@pytest.mark.parametrize("name", list(FORMS))
def test_a_checkpoint_has_the_widest_of_all_layers_and_the_same_answers(
    narrow: PreTrainedModel, name: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("ct") and importlib.util.find_spec("compressed_tensors") is None:
        pytest.skip("compressed-tensors is not installed")
    simulated, precision = FORMS[name]
    model = narrow if simulated is None else integers(narrow, **simulated)
    kind = name if name in ("transformers-bf16", "ct-w8a8") else "transformers"
    made = ship(model, encoder, tmp_path, monkeypatch, kind=kind, precision=precision)
    config = json.loads((folder_of(made, tmp_path) / "config.json").read_text())
    assert config["intermediate_size"] == max(UNITS)
    assert KEY not in config, "a stock checkpoint, whatever was cut"
    zeros = (max(UNITS) - min(UNITS)) * (2 * HIDDEN + 1)
    assert f"filled with zeros, {zeros:,} parameters" in (folder_of(made, tmp_path) / "README.md").read_text()
    if precision == "float32":
        stored = load_file(folder_of(made, tmp_path) / "model.safetensors")
        assert stored["bert.encoder.layer.0.intermediate.dense.weight"].shape == (max(UNITS), HIDDEN)
        assert made.artifact.trained_as_shipped, "zeros beside its numbers are no other numbers"
        even = encoder_of(narrow).evened(narrow)
        assert made.size.bytes_at_16_bit == 2 * encoder_of(even).parameters_of(even).total
    assert encoder_of(narrow).shape_of(narrow.config).ffns == UNITS, "the model itself stays as it is"


def test_openvino_reads_each_layers_own_width(
    narrow: PreTrainedModel, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    made = ship(narrow, encoder, tmp_path, monkeypatch, kind="openvino-f16", precision="float16")
    sizes = [size for _, size in openvino_constants(folder_of(made, tmp_path) / "openvino_model.xml")]
    assert all(sizes.count(2 * HIDDEN * units) >= 2 for units in UNITS)
