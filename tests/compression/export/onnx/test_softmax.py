"""Softmax spelled out is the same function, in portable files alone, and comes to the same bits under AVX2."""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from transformers import BertForSequenceClassification

from compression.evaluation.runtimes import standalone
from compression.export import instruction_sets
from compression.export.onnx import decoder
from compression.export.onnx.exporter import plain_model, write_onnx
from compression.export.onnx.softmax import spelled_out
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from tests.support.decoder_models import tiny

WITHOUT = instruction_sets.hindrance()
Values = npt.NDArray[np.float32]


def made(*nodes: onnx.NodeProto, outputs: tuple[str, ...]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in ("scores", "values")]
    said = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in outputs]
    graph = helper.make_graph(list(nodes), "attention", inputs, said)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def attention(axis: int = -1, outputs: tuple[str, ...] = ("found",)) -> onnx.ModelProto:
    softmax = helper.make_node("Softmax", ["scores"], ["chances"], name="softmax", axis=axis)
    return made(softmax, helper.make_node("MatMul", ["chances", "values"], ["found"], name="product"), outputs=outputs)


def asked(rows: int) -> dict[str, Values]:
    draw = np.random.default_rng(0)
    scores = draw.normal(scale=4, size=(2, rows, rows)).astype(np.float32)
    scores[0, :, rows // 2 :] = np.finfo(np.float32).min  # padding
    scores[1, 0] = np.finfo(np.float32).min  # a row that sees nothing
    return {"scores": scores, "values": draw.normal(size=(2, rows, 8)).astype(np.float32)}


def said(proto: onnx.ModelProto, feeds: dict[str, Values]) -> list[Values]:
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)


@pytest.mark.parametrize("outputs", [("found",), ("found", "chances")])
def test_it_is_the_same_function(outputs: tuple[str, ...]) -> None:
    before = attention(outputs=outputs)
    after, feeds = spelled_out(before), asked(40)
    for one, other in zip(said(before, feeds), said(after, feeds), strict=True):
        assert other == pytest.approx(one, abs=1e-6)
    operators = [node.op_type for node in after.graph.node]
    assert "Softmax" not in operators
    # What nobody else reads is divided behind the product.
    assert (operators.index("Div") > operators.index("MatMul")) == (len(outputs) == 1)


def test_a_softmax_over_another_axis_stays() -> None:
    assert [node.op_type for node in spelled_out(attention(axis=1)).graph.node] == ["Softmax", "MatMul"]


@pytest.mark.parametrize("form", ["portable", "full", "weights"])
def test_portable_files_that_round_have_it(form: str, tiny_classifier: BertForSequenceClassification, tmp_path: Path) -> None:
    simulation = Simulation(scheme="weight-only-int8" if form == "weights" else "dynamic-int8", portable=form == "portable")
    model, language_model = plain_model(tiny_classifier), tiny("deepseek_v2")
    insert_fake_quantization(model, simulation=simulation)
    (tmp_path / "encoder").mkdir()
    (tmp_path / "decoder").mkdir()
    encoder = write_onnx(model, tmp_path / "encoder", int8=True)
    written = decoder.write(language_model, tmp_path / "decoder", simulation=simulation)[0]
    for path in (encoder, written):
        operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
        assert ("Softmax" in operators) == (form != "portable")


@pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))
def test_avx2_comes_to_the_same_bits(tmp_path: Path) -> None:
    path, feeds = tmp_path / "attention.onnx", [asked(rows) | {"input_ids": np.zeros(2)} for rows in (17, 40, 130)]
    onnx.save(spelled_out(attention()), path)
    interpreter = [instruction_sets.EMULATOR, "-cpu", instruction_sets.PROCESSOR, sys.executable]
    there = instruction_sets.ask(interpreter, path, feeds, 120.0)
    for one, other in zip(standalone.answer(str(path), feeds), there, strict=True):
        assert (one["found"] == other["found"]).all()
