"""A folded BatchNorm changes no answer, and one that cannot be folded stays."""

from math import prod

import numpy as np
import pytest
import torch

from compression.models.networks.folding import folded, folding_of, folds
from compression.models.networks.graph import INPUT, Graph
from tests.support.network_files import pixels, tensors_of
from tests.support.network_graphs import NETWORKS, GraphBuilder, densenet, resnet
from tests.support.network_models import drawn_network

TOLERANCE = 1e-5
"""Of the largest logit: folding changes the order of operations in float32, nothing else."""


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_network_without_its_norms_answers_as_before(name: str) -> None:
    graph = NETWORKS[name]()
    model = drawn_network(graph)
    whole, values = folded(graph, tensors_of(model))
    assert {key: value.shape for key, value in values.items()} == whole.tensors()
    assert len(whole.nodes) == len(graph.nodes) - len(folds(graph))
    other = drawn_network(whole)
    other.load_state_dict({key: torch.from_numpy(value) for key, value in values.items()})
    expected = model(images := pixels(model)).logits
    assert (other(images).logits - expected).abs().max() < TOLERANCE * expected.abs().max()


def test_norms_behind_a_layer_are_folded_and_others_stay() -> None:
    norms = [node.name for node in resnet().nodes if node.op == "batch_norm"]
    assert sorted(folds(resnet()).values()) == sorted(norms)
    dense = densenet()
    stay = {node.name for node in dense.nodes if node.op == "batch_norm"} - set(folds(dense).values())
    assert {dense.named(dense.named(name).inputs[0]).op for name in stay} == {"concat"}
    assert folds(dense), "the norm between a block's two convolutions"


def test_a_norm_stays_if_something_else_reads_the_convolution() -> None:
    net = GraphBuilder()
    value = net.conv(INPUT, 4)
    graph = net.classified(net.op("add", net.norm(value), value))
    assert not folds(graph)
    whole, values = folded(graph, tensors_of(drawn_network(graph)))
    assert whole == graph
    assert set(values) == set(graph.tensors())


def test_a_linear_layer_takes_the_norm_of_its_outputs_but_not_of_its_rows() -> None:
    def after_linear(shape: tuple[int, ...]) -> Graph:
        net = GraphBuilder((3, 4, 4))
        value = net.norm(net.linear(net.reshape(INPUT, 1, *shape), 6, bias=False))
        return net.graph(net.linear(net.reshape(value, 1, 6 * shape[0] if len(shape) > 1 else 6), 5))

    graph = after_linear((48,))
    assert folds(graph) == {"linear_1": "batch_norm_2"}
    assert not folds(graph, ("conv",))
    whole, values = folded(graph, tensors_of(drawn_network(graph)))
    assert values["linear_1.bias"].shape == whole.tensors()["linear_1.bias"] == (6,)
    assert not folds(after_linear((12, 4)))


def test_a_channel_whose_norm_multiplies_by_nothing_keeps_its_bias() -> None:
    net = GraphBuilder()
    graph = net.classified(net.conv_norm(INPUT, 4))
    model = drawn_network(graph)
    with torch.no_grad():
        model.get_parameter("batch_norm_1.weight")[2] = 0
    values = folded(graph, tensors_of(model))[1]
    assert not values["conv_0.weight"][2].any()
    assert np.isclose(values["conv_0.bias"][2], tensors_of(model)["batch_norm_1.bias"][2])


@pytest.mark.parametrize("name", NETWORKS)
def test_what_every_file_does_without_is_counted(name: str) -> None:
    graph = NETWORKS[name]()
    found, norms = folding_of(graph), [node for node in graph.nodes if node.op == "batch_norm"]
    if not norms:
        assert found is None
        return
    whole, _ = folded(graph, tensors_of(drawn_network(graph)), ("conv",))
    sizes = [sum(prod(shape) for shape in each.tensors().values()) for each in (graph, whole)]
    assert found is not None
    assert (found.norms, found.folded) == (len(norms), len(graph.nodes) - len(whole.nodes))
    assert found.elements == sizes[0] - sizes[1]
    assert found.short.startswith(f"{found.folded} of {len(norms)} batch normalizations folded")


def test_activations_directly_behind_convolutions_are_counted() -> None:
    net = GraphBuilder()
    value = net.conv_norm(net.conv_norm(INPUT, 4), 4, act="")
    value = net.op("relu", net.conv(net.op("relu", net.op("add", value, value)), 4))
    assert folding_of(net.classified(value)).activations == 2
