"""Short names change a network's file in nothing but its size, and its layers keep theirs."""

import numpy as np
import onnx
import pytest
import torch

from compression.export.onnx.short_names import shorten_names
from tests.support.network_files import answers, integer_file, pixels, simulated
from tests.support.network_graphs import NETWORKS
from tests.support.network_models import drawn_network


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_answers_inputs_and_outputs_stay(name: str, symmetric: bool) -> None:
    model = drawn_network(NETWORKS[name]())
    images = pixels(model, 8)
    proto = integer_file(simulated(model, "static-int8", images, symmetric=symmetric))
    before, size, ends = answers(proto, images), proto.ByteSize(), [*proto.graph.input, *proto.graph.output]
    shorten_names(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert [*proto.graph.input, *proto.graph.output] == ends
    assert np.array_equal(answers(proto, images), before)
    assert proto.ByteSize() < size
    inner = {value for node in proto.graph.node for value in node.output} - {value.name for value in ends}
    assert max(map(len, inner)) <= 2
    layers = {node.name for node in model.config.network.nodes if node.op in ("conv", "linear")}
    assert layers - {model.config.network.output} <= {node.name for node in proto.graph.node}


def test_a_short_name_is_never_an_inputs_or_an_outputs() -> None:
    nodes = [
        onnx.helper.make_node("Relu", ["a"], ["first value"]),
        onnx.helper.make_node("Clip", ["first value", "", "number.6.0"], ["b"]),
    ]
    ends = [[onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch"])] for name in "ab"]
    six = onnx.numpy_helper.from_array(np.array(6, np.float32), "number.6.0")
    proto = onnx.helper.make_model(onnx.helper.make_graph(nodes, "small", *ends, [six]))
    shorten_names(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert [(*node.input, *node.output) for node in proto.graph.node] == [("a", "c"), ("c", "", "d", "b")]
    assert [item.name for item in proto.graph.initializer] == ["d"]
