"""Every scheme as files: reopened they answer as the simulation does, in the bytes and with the operators that are promised."""

import copy
from collections import Counter
from functools import cache
from pathlib import Path

import onnx
import onnxruntime
import pytest
from transformers import BertForSequenceClassification

from compression.export.exporter import exporter_of
from compression.export.manifest import write_config
from compression.export.onnx.exporter import plain_model, write_onnx
from compression.export.parity_check import Agreement, verify
from compression.export.transformers.exporter import write_transformers
from compression.modalities.text.scoring.whole_texts import TextClassScorer
from compression.models.adapters.registry import ENCODER_ADAPTERS
from compression.planning.estimator import artifact_bytes
from compression.quantization import calibration
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, simulation_of
from compression.schema.artifact_formats import Kind
from compression.schema.recipe.quantize import Quantize
from tests.support.tiny_bert import encoded, sentences, tiny_config, write_tokenizer
from tests.support.tiny_shipment import LABELS, MAX_LENGTH

BERT = ENCODER_ADAPTERS["bert"]

SAMPLE = [{"text": text} for text, _ in sentences(16, seed=5)]
SCHEMES = ("static-int8", "weight-only-int8", "weight-only-int4")


@cache
def simulated(scheme: str, ffn: int = 80) -> BertForSequenceClassification:
    """Widths of which groups of 32 leave a rest."""
    torch_model = BertForSequenceClassification(tiny_config(num_labels=2, hidden_size=48, intermediate_size=ffn)).eval()
    settings = Quantize(scheme=scheme)
    if scheme == "static-int8":
        calibration.calibrate(torch_model, encoded(sentences(64, 1)), settings)
    insert_fake_quantization(torch_model, simulation=Simulation.of(settings))
    return torch_model


def written(scheme: str, kind: Kind, folder: Path, ffn: int = 80) -> tuple[Path, Agreement]:
    model = simulated(scheme, ffn)
    weights = (write_onnx if kind == "onnx" else write_transformers)(model, folder, int8=True)
    write_tokenizer(folder)
    write_config(model, folder, LABELS, MAX_LENGTH, kind)
    scorer = TextClassScorer("accuracy", 2, 1)
    return weights, verify(model, folder, kind=kind, int8=True, sample=SAMPLE, scorer=scorer, pad_id=0)


def operators(path: Path, tmp_path: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_onnx_file_answers_as_the_simulation_does(scheme: str, tmp_path: Path) -> None:
    weights, agreement = written(scheme, "onnx", tmp_path)
    assert agreement.difference < 1e-3 * agreement.allowed.rms if scheme == "static-int8" else agreement.difference < 1e-6
    proto, found = onnx.load(weights), operators(weights, tmp_path)
    domains = {item.domain for item in proto.opset_import}
    if scheme == "static-int8":
        # All 14 layers in integers; query, key and value read one rounded tensor.
        assert (found["QGemm"], found["Gemm"], found["QuantizeLinear"]) == (14, 0, 4 * 2 + 2)
    elif scheme == "weight-only-int8":
        assert found["MatMulNBits"] == 0, "activations would be rounded too"
        assert found["Gemm"] + found["FusedGemm"] == 14
    else:
        assert found["MatMulNBits"] == 14
    assert domains == ({"", "com.microsoft"} if scheme == "weight-only-int4" else {""})
    # The integers alone, and with all that lies beside them but the graph's own text, which no real model's file is much of.
    stored = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    promised = artifact_bytes(BERT.parameters_of(simulated(scheme)), Quantize(scheme=scheme))
    assert 0.9 * promised < stored < 1.35 * promised
    assert exporter_of("onnx").precision_of(scheme, simulated(scheme)) == scheme[-4:]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_checkpoint_opens_with_stock_transformers(scheme: str, tmp_path: Path) -> None:
    weights, agreement = written(scheme, "transformers", tmp_path)
    if scheme != "static-int8":  # of which torchao has no form that stock from_pretrained opens
        assert agreement.difference < 1e-6
    assert weights.stat().st_size < 0.6 * 4 * BERT.parameters_of(simulated(scheme)).total


def test_four_bits_of_an_odd_width_open_with_stock_transformers(tmp_path: Path) -> None:
    assert written("weight-only-int4", "transformers", tmp_path, ffn=45)[1].difference < 1e-6


def test_exporting_takes_nothing_from_the_simulation(tmp_path: Path) -> None:
    before = simulation_of(simulated("static-int8"))
    twin = copy.deepcopy(simulated("static-int8"))
    plain_model(twin)
    assert simulation_of(twin) == before
    assert len(before.ranges) == 14
