"""Operators are counted in the file, and as each runtime executes them."""

from pathlib import Path

import pytest
from torch import nn

from compression.evaluation.runtimes import runner
from compression.evaluation.runtimes.runner import operators_of
from compression.export.exporter import exporter_of
from compression.modalities.image.scoring.reader import ImageInputs
from compression.modalities.text.inputs import full_batch
from tests.support.decoder_models import VOCABULARY, tiny
from tests.support.network_files import pixels
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network


def test_each_runtime_joins_activations_to_convolutions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn_network(resnet())
    batch = ImageInputs(pixels(model).numpy())
    layers = sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
    for kind, precision, convolution in (("onnx", "float32", "Conv"), ("openvino-f16", "float16", "Convolution")):
        (tmp_path / kind).mkdir()
        exporter_of(kind).write(model, tmp_path / kind, precision)
        files = sorted((tmp_path / kind).iterdir())
        found = operators_of(kind, tmp_path / kind, batch)
        assert found.before[convolution] == layers
        assert sum(count for name, count in found.after.items() if name.endswith(convolution)) == layers
        assert found.after.get("Relu", 0) < found.before["Relu"]
        assert not {"Const", "Constant", "Parameter", "Input"} & (found.before | found.after).keys()
        assert sorted((tmp_path / kind).iterdir()) == files, "what was profiled leaves nothing"
    assert operators_of("transformers", tmp_path, batch) is None
    monkeypatch.setattr(runner, "MOST_BYTES", 100)
    assert operators_of("onnx", tmp_path / "onnx", batch) is None


def test_a_language_model_s_are_those_of_reading_a_prompt(tmp_path: Path) -> None:
    exporter_of("onnx").write(tiny("llama"), tmp_path, "float32")
    found = operators_of("onnx", tmp_path, full_batch(1, 5, VOCABULARY))
    assert found is not None
    assert found.before["MatMul"] <= sum(count for kind, count in found.after.items() if "MatMul" in kind or "Gemm" in kind)
