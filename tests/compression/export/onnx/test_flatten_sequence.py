"""Hidden states as rows: the same function, in the form that the runtime's kernels are fast for."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from transformers import BertForSequenceClassification

from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export.onnx.exporter import plain_model
from compression.export.onnx.flatten_sequence import flatten_sequence
from compression.export.onnx.trace import graph
from tests.compression.export.onnx.test_exporter import random_batch


@pytest.fixture(scope="module")
def traced(tiny_classifier: BertForSequenceClassification) -> onnx.ModelProto:
    return graph(plain_model(tiny_classifier))


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, path)
    return path


def test_rows_answer_as_before_for_every_batch_and_length(traced: onnx.ModelProto, tmp_path: Path) -> None:
    before = OnnxRunner(saved(traced, tmp_path / "before.onnx"), threads=1)
    after = OnnxRunner(saved(flatten_sequence(traced), tmp_path / "after.onnx"), threads=1)
    for rows, length in ((1, 1), (1, 7), (5, 3), (24, 40)):
        batch = random_batch(rows, max(length, 3))
        assert after.logits(batch) == pytest.approx(before.logits(batch), abs=1e-5)


def test_matrices_reach_the_kernels_and_the_slow_fusion_does_not(traced: onnx.ModelProto, tmp_path: Path) -> None:
    flat = flatten_sequence(traced)
    norms = [node for node in flat.graph.node if node.op_type == "LayerNormalization"]
    assert len(norms) == 5
    assert all(node.input[0].endswith("_rows") for node in norms)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(flat.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "SkipLayerNormalization" not in operators
    assert "Gemm" in operators


def test_a_graph_that_is_not_understood_stays_right(traced: onnx.ModelProto, tmp_path: Path) -> None:
    # Cumulative sums mix the rows of a text: their input must have its three dimensions.
    odd = copy.deepcopy(traced)
    at = next(number for number, node in enumerate(odd.graph.node) if node.op_type == "LayerNormalization")
    outer = odd.graph.node[at].output[0]
    inner = f"{outer}_inner"
    shape = next(value for value in odd.graph.value_info if value.name == outer)
    odd.graph.value_info.append(onnx.helper.make_value_info(inner, shape.type))
    odd.graph.node[at].output[0] = inner
    odd.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.int64), "axis"))
    odd.graph.node.insert(at + 1, onnx.helper.make_node("CumSum", [inner, "axis"], [outer], name="cumsum"))
    before = OnnxRunner(saved(odd, tmp_path / "odd.onnx"), threads=1)
    after = OnnxRunner(saved(flatten_sequence(odd), tmp_path / "rows.onnx"), threads=1)
    batch = random_batch(4, 9)
    assert after.logits(batch) == pytest.approx(before.logits(batch), abs=1e-5)
