"""A network's ONNX file in float32 answers as the network, operator by operator and as a whole, for any number of rows."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor

from compression.export.onnx.network_graph import float_graph, written
from compression.export.onnx.network_operators import ONNX, NetworkNodes
from compression.models.networks.folding import folds
from compression.models.networks.graph import INPUT, Graph, Node
from compression.models.networks.operators import OPERATORS
from tests.compression.models.adapters.network.test_operators import CASES
from tests.support.network_files import answers, fused, pixels, session, tensors_of
from tests.support.network_graphs import NETWORKS, GraphBuilder, resnet
from tests.support.network_models import drawn_network

TOLERANCE = 1e-5
"""Of the largest logit: two float32 runtimes differ by the order of sums, and folding a BatchNorm changes no more."""
POSITIVE = ("log", "sqrt", "reciprocal", "pow")
UNARY = tuple(name for name, one in OPERATORS.items() if one.inputs == 1 and not one.attributes and not one.roles)
BINARY = tuple(name for name, one in OPERATORS.items() if one.inputs == 2)
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "leaky_relu": ("leaky_relu", {"slope": 1}),
    "elu": ("elu", {"alpha": 0.7}),
    "gelu": ("gelu", {"approximate": "none"}),
    "hard_sigmoid": ("hard_sigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "reduce_sum": ("reduce_sum", {"axes": (1, 3), "keep": 0}),
    "reduce_mean": ("reduce_mean", {"axes": (1,), "keep": 1}),
    "mean of a map": ("reduce_mean", {"axes": (2, 3), "keep": 1}),
    "resize, corners": ("resize", {"size": (5, 13), "mode": "linear", "coordinates": "align_corners"}),
    "resize, nearest": ("resize", {"size": (3, 13), "mode": "nearest", "coordinates": "half_pixel"}),
}


def agrees(graph: Graph, images: Tensor) -> bool:
    model = drawn_network(graph)
    proto = float_graph(graph, tensors_of(model))
    onnx.checker.check_model(proto, full_check=True)
    with torch.no_grad():
        expected = model(images).logits
    found = answers(proto, images)
    return found.shape == expected.shape and torch.allclose(found, expected, atol=TOLERANCE * max(expected.abs().max(), 1))


def test_every_operator_is_written() -> None:
    assert set(ONNX) == set(OPERATORS)


@pytest.mark.parametrize("case", [*CASES, *MORE, *UNARY])
def test_an_operator_is_written_as_torch_computes_it(case: str) -> None:
    operator, attributes, tensors = CASES.get(case) or (*MORE.get(case, (case, {})), {})
    node = Node(name="one", op=operator, inputs=(INPUT,), attributes=attributes, tensors=tensors)
    images = torch.randn(3, 4, 7, 6, generator=torch.Generator().manual_seed(2))
    assert agrees(Graph(shape=(4, 7, 6), nodes=(node,), output="one"), images.abs() + 0.1 if case in POSITIVE else images)


@pytest.mark.parametrize("operator", BINARY)
def test_an_operator_of_two_values_is_written_as_torch_computes_it(operator: str) -> None:
    turned = Node(name="turned", op="transpose", inputs=(INPUT,), attributes={"order": (0, 1, 3, 2)})
    one = Node(name="one", op=operator, inputs=(INPUT, "turned"))
    images = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(2)) + 0.1
    assert agrees(Graph(shape=(4, 6, 6), nodes=(turned, one), output="one"), images)


def test_a_constant_gets_the_rows_of_its_batch_and_a_value_keeps_its_own() -> None:
    net = GraphBuilder((2, 2, 3))
    token = net.op("expand", net.constant(1, 1, 3), shape=(1, 4, 3))
    wide = net.op("expand", net.reshape(INPUT, 2, 1, 6), shape=(2, 5, 6))
    graph = net.graph(net.op("concat", token, net.reshape(wide, 1, 20, 3), axis=1))
    assert agrees(graph, torch.randn(5, 2, 2, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_as_its_graph(name: str) -> None:
    graph = NETWORKS[name]()
    for rows in (1, 5):
        assert agrees(graph, pixels(drawn_network(graph), rows))


def test_the_files_interface_is_free_in_its_rows_alone() -> None:
    graph = resnet()
    opened = session(float_graph(graph, tensors_of(drawn_network(graph))))
    (given,), (answer,) = opened.get_inputs(), opened.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixel_values", "tensor(float)", ["batch", *graph.shape])
    assert (answer.name, answer.shape) == ("logits", ["batch", 5])


def test_no_norm_and_no_activation_is_left_beside_a_convolution(tmp_path: Path) -> None:
    graph = resnet()
    found = fused(float_graph(graph, tensors_of(drawn_network(graph))), tmp_path)
    assert found["Conv"] + found["FusedConv"] == sum(node.op == "conv" for node in graph.nodes)
    assert not found["BatchNormalization"]
    assert not found["Relu"]


def test_a_node_may_have_the_name_of_the_files_input_or_output() -> None:
    nodes = (
        Node(name="pixel_values", op="relu", inputs=(INPUT,)),
        Node(name="batch", op="neg", inputs=("pixel_values",)),
        Node(name="last", op="abs", inputs=("batch",)),
    )
    assert agrees(Graph(shape=(3, 2, 2), nodes=nodes, output="last"), torch.randn(2, 3, 2, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_with_its_norms_gives_the_same_answers_and_is_folded_when_it_is_opened(name: str, tmp_path: Path) -> None:
    graph = NETWORKS[name]()
    model = drawn_network(graph)
    whole, ours = written(NetworkNodes(graph, tensors_of(model))), float_graph(graph, tensors_of(model))
    expected, found = (answers(proto, images) for images in [pixels(model)] for proto in (whole, ours))
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()
    folded = len(folds(graph))
    assert len(whole.graph.node) - len(ours.graph.node) == folded
    # ONNX Runtime folds what Lathe does: the gain is that of runtimes which do not, and a file of integers is not like this.
    assert fused(whole, tmp_path) == fused(ours, tmp_path)
