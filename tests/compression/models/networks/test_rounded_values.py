"""What is rounded is what runtimes compute with integers, and nothing is rounded twice."""

import pytest

from compression.models.networks.graph import INPUT
from compression.models.networks.rounded_values import LAYERS, rounded_values, rounding
from tests.support.network_graphs import NETWORKS, GraphBuilder, convnext, mobilenet_v2, resnet, vit


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_reads_a_range_and_each_convolution_makes_one(name: str) -> None:
    graph = NETWORKS[name]()
    found = rounding(graph)
    for node in graph.nodes:
        if node.op in LAYERS:
            assert found.ranges[node.inputs[0]] in found.made | found.read
    assert not found.made & found.read
    assert {value for value, source in found.ranges.items() if value == source} == found.made | found.read
    without_linear = rounding(graph, ("conv",))
    assert without_linear.made | without_linear.read <= found.made | found.read
    assert set(rounded_values(graph)) == found.made | found.read


def test_a_residual_network_is_integers_from_its_input_to_its_last_layer() -> None:
    graph = resnet()
    found = rounding(graph)
    assert found.read == {INPUT}
    ops = {node.name: node.op for node in graph.nodes}
    assert {ops[name] for name in found.made} == {"relu", "batch_norm", "reduce_mean"}
    joined = {node.name for node in graph.nodes if node.op in ("conv", "add")}
    assert not joined & found.made, "a ReLU or a BatchNorm joins the operator before it"


def test_a_clip_joins_and_a_sum_of_rounded_values_is_rounded() -> None:
    graph = mobilenet_v2()
    ops = {node.name: node.op for node in graph.nodes}
    assert {"clip", "add"} <= {ops[name] for name in rounding(graph).made}


def test_residual_streams_of_tokens_stay_in_floating_point() -> None:
    for graph in (vit(), convnext()):
        ops = {node.name: node.op for node in graph.nodes}
        found = rounding(graph)
        assert not [name for name in found.made if ops[name] == "add"]
        assert {ops[name] for name in found.read if name != INPUT} >= {"gelu"}


def test_what_passes_numbers_on_keeps_their_range() -> None:
    net = GraphBuilder()
    first = net.conv_norm(INPUT, 8)
    pooled = net.pool(first)
    half = net.part(pooled, 1, 0, 4)
    graph = net.classified(net.conv_norm(half, 4))
    found = rounding(graph)
    assert found.ranges[pooled] == found.ranges[half] == first
    assert not {pooled, half} & set(rounded_values(graph))


def test_an_activation_that_is_not_a_clip_leaves_its_convolution_rounded() -> None:
    net = GraphBuilder()
    bent = net.conv_norm(INPUT, 8, act="silu")
    graph = net.classified(net.conv(bent, 4))
    before = graph.named(bent).inputs[0]
    assert before in rounding(graph).made
    assert bent in rounding(graph).read
