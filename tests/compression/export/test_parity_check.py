"""An artifact that does not answer as the engine's model does is not shipped."""

import copy
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export.onnx.exporter import compare_interface
from compression.export.parity_check import PEAK, Bound, compare, limit, verify
from compression.modalities.scoring.base import Row
from compression.modalities.text.scoring.whole_texts import TextClassScorer
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.errors import ExportMismatch
from tests.support.tiny_shipment import Shipment

SCORER = TextClassScorer("accuracy", 2, 1)
INPUTS = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ("tensor(int64)", [True, True]))
OUTPUTS = ("logits",)


def texts(shipment: Shipment) -> list[Row]:
    return [{"text": text} for text, _ in shipment.rows[:24]]


@pytest.mark.parametrize("int8", [False, True])
def test_the_exported_model_agrees(tiny_shipment: Shipment, int8: bool) -> None:
    model = copy.deepcopy(tiny_shipment.model)
    if int8:
        insert_fake_quantization(model)
    folder = tiny_shipment.folder(tiny_shipment.int8 if int8 else tiny_shipment.baseline)
    agreement = verify(model, folder, kind="onnx", int8=int8, sample=texts(tiny_shipment), scorer=SCORER, pad_id=0)
    assert agreement.difference <= agreement.allowed.rms


@pytest.mark.parametrize("lost", ["bert.encoder.layer.1.output.dense.bias", "classifier.bias", "bert.pooler.dense.bias"])
def test_a_lost_bias_is_noticed_in_int8(tiny_shipment: Shipment, lost: str) -> None:
    model, folder = copy.deepcopy(tiny_shipment.model), tiny_shipment.folder(tiny_shipment.int8)
    insert_fake_quantization(model)
    with torch.no_grad():
        model.get_parameter(lost).zero_()
    with pytest.raises(ExportMismatch, match="logits differ"):
        verify(model, folder, kind="onnx", int8=True, sample=texts(tiny_shipment), scorer=SCORER, pad_id=0)


def test_a_wrong_scale_is_noticed(tiny_shipment: Shipment, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_shipment.folder(tiny_shipment.int8), folder)
    proto = onnx.load(folder / "model.onnx")
    tensor = next(item for item in proto.graph.initializer if item.name.endswith("layer.0.output.dense.weight_scale"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    onnx.save(proto, folder / "model.onnx")
    model = copy.deepcopy(tiny_shipment.model)
    insert_fake_quantization(model)
    with pytest.raises(ExportMismatch):
        verify(model, folder, kind="onnx", int8=True, sample=texts(tiny_shipment), scorer=SCORER, pad_id=0)


def test_what_is_not_a_number_is_never_near_enough() -> None:
    expected = np.zeros((2, 2), np.float32)
    with pytest.raises(ExportMismatch):
        compare(expected, np.full((2, 2), np.nan, np.float32), allowed=Bound(1.0))
    with pytest.raises(ExportMismatch, match="shape"):
        compare(expected, np.zeros((2, 3), np.float32), allowed=Bound(1.0))


def test_the_farthest_of_many_tokens_is_held_against_what_rounding_moves_it_by() -> None:
    draw = np.random.default_rng(0)
    expected = draw.normal(size=(2000, 8)).astype(np.float32)
    rounded = expected + draw.normal(scale=1e-3, size=expected.shape).astype(np.float32)
    rounded[7] += 0.1
    allowed = limit(expected, rounded, noise=2.0)
    assert compare(expected, rounded, allowed, places=True).largest > PEAK * allowed.rms
    further = expected.copy()
    further[7] += 0.5
    with pytest.raises(ExportMismatch, match="row 7"):
        compare(expected, further, allowed, places=True)
    another = rounded.copy()
    another[8] += 0.1
    with pytest.raises(ExportMismatch, match="row 8"):
        compare(expected, another, allowed, places=True)
    exact = limit(expected, rounded, noise=0.0)
    assert exact.largest == PEAK * exact.rms


def test_the_interface_is_part_of_the_promise(tiny_shipment: Shipment, tmp_path: Path) -> None:
    proto = onnx.load(tiny_shipment.folder(tiny_shipment.baseline) / "model.onnx")
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    compare_interface(OnnxRunner(tiny_shipment.folder(tiny_shipment.baseline) / "model.onnx", threads=1), 2, INPUTS, OUTPUTS)
    for node in proto.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    proto.graph.input[0].name = "ids"
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ExportMismatch, match="inputs"):
        compare_interface(OnnxRunner(tmp_path / "model.onnx", threads=1), 2, INPUTS, OUTPUTS)
