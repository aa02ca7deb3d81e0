"""Cuts: a narrower network computes what the whole one does without the channels and blocks that it lacks."""

from collections.abc import Collection, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from torch import nn

from compression.models.adapters.network.module import NetworkConfig, NetworkForImageClassification
from compression.models.adapters.network.operators import compute
from compression.models.networks.blocks import residual_blocks
from compression.models.networks.channels import channel_groups, channels_of
from compression.models.networks.cutting import CutGraph, Kept, cut_graph
from compression.models.networks.graph import INPUT, Graph
from tests.support.network_graphs import NETWORKS, resnet, vgg

GRAPHS = {name: make() for name, make in NETWORKS.items()}
GROUPS = {name: channel_groups(graph) for name, graph in GRAPHS.items()}
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(graph: Graph, tensors: Mapping[str, torch.Tensor]) -> NetworkForImageClassification:
    model = NetworkForImageClassification(NetworkConfig(graph=graph.model_dump(mode="json"), num_labels=5)).eval().double()
    model.load_state_dict(dict(tensors))
    return model


def drawn_tensors(graph: Graph) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in graph.tensors().items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        found[name] = value.abs() + 0.5 if name.endswith("running_var") else value
    return found


def logits(model: NetworkForImageClassification) -> torch.Tensor:
    with torch.no_grad():
        return model(IMAGES).logits


def cut_logits(cut: CutGraph, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    left = {name: torch.from_numpy(cut.cut(name, tensors[name].numpy())) for name in cut.graph.tensors()}
    return logits(network(cut.graph, left))


def masked_norm(norm: nn.LayerNorm, value: torch.Tensor, stays: torch.Tensor) -> torch.Tensor:
    """Normalize the last axis by the statistics of the channels that stay."""
    left = value[..., stays]
    mean, variance = left.mean(-1, keepdim=True), left.var(-1, correction=0, keepdim=True)
    return (value - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


@torch.no_grad()
def masked_logits(graph: Graph, kept: Kept, without: Collection[str], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Compute with all channels, where those that go are zero in every value, and with the input of a block that goes."""
    channels, model = channels_of(graph), network(graph, tensors)
    passed = {block.name: block.input for block in residual_blocks(graph) if block.name in without}
    gone = [unit for key, units in channels.units.items() for unit in np.delete(units, kept.get(key, range(len(units))))]
    values = {INPUT: IMAGES}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        cut = channels.values.get(node.name)
        stays = None if cut is None else torch.from_numpy(~np.isin(cut.units, gone))
        if node.name in passed:
            found = values[passed[node.name]]
        elif node.op == "layer_norm" and cut is not None and cut.axis == inputs[0].ndim - 1:
            found = masked_norm(model.get_submodule(node.name), inputs[0], stays)
        else:
            found = compute(node, dict(model.named_children()).get(node.name), inputs, len(IMAGES))
        if cut is not None:
            shape = [-1 if axis == cut.axis else 1 for axis in range(found.ndim)]
            rows = len(found) // len(cut.units) if cut.axis == 0 else 1  # the factor of the batch lies behind the rows
            found = found * stays.repeat(rows).reshape(shape)
        values[node.name] = found
    return values[graph.output]


@given(name=strategies.sampled_from(sorted(GRAPHS)), data=strategies.data())
@settings(max_examples=30, deadline=None)
def test_a_cut_network_computes_what_the_masked_one_does(name: str, data: strategies.DataObject) -> None:
    """A layer norm of the masked one takes its statistics over what stays: a cut changes them, and nothing else."""
    graph, groups = GRAPHS[name], GROUPS[name]
    kept = {
        group.key: sorted(data.draw(strategies.sets(strategies.integers(0, group.units - 1), min_size=1), group.key))
        for group in groups
    }
    without = [block.name for block in residual_blocks(graph) if data.draw(strategies.booleans(), block.name)]
    tensors = drawn_tensors(graph)
    found = cut_logits(cut_graph(graph, kept, without), tensors)
    wanted = masked_logits(graph, kept, without, tensors)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_goes_matters_to_the_logits(name: str) -> None:
    graph = GRAPHS[name]
    tensors = drawn_tensors(graph)
    whole = logits(network(graph, tensors))
    for group in GROUPS[name]:
        cut = cut_logits(cut_graph(graph, {group.key: [0]}), tensors)
        assert not torch.allclose(cut, whole, rtol=1e-7, atol=1e-9), group.key


@given(name=strategies.sampled_from(sorted(GRAPHS)), data=strategies.data())
@settings(max_examples=20, deadline=None)
def test_a_cut_network_has_the_groups_of_the_whole_one(name: str, data: strategies.DataObject) -> None:
    widths = {group.key: data.draw(strategies.integers(2, group.units), group.key) for group in GROUPS[name]}
    left = cut_graph(GRAPHS[name], {key: range(units) for key, units in widths.items()}).graph
    assert {group.key: group.units for group in channel_groups(left)} == widths


@pytest.mark.parametrize("name", GRAPHS)
def test_a_cut_of_nothing_changes_nothing(name: str) -> None:
    cut = cut_graph(GRAPHS[name], {})
    assert cut.graph == GRAPHS[name]
    assert not any(cut.indices.values())


def test_indices_name_what_stays_of_each_tensor() -> None:
    cut = cut_graph(vgg(), {"channels.1": [1, 6]})
    assert {name: {dim: kept.tolist() for dim, kept in each.items()} for name, each in cut.indices.items() if each} == {
        "conv_3.weight": {0: [1, 6]},
        "conv_3.bias": {0: [1, 6]},
        "linear_7.weight": {1: [4, 5, 6, 7, 24, 25, 26, 27]},
    }
    assert cut.graph.named("reshape_6").attributes["shape"] == (1, 8)


def test_a_grouped_convolution_has_fewer_groups_and_a_split_other_bounds() -> None:
    cut = cut_graph(GRAPHS["resnext"], {"channels.1": [0, 2, 3]})
    assert cut.graph.named("conv_6").attributes["groups"] == 3
    assert cut.graph.named("conv_6").tensors["weight"] == (6, 2, 3, 3)
    cut = cut_graph(GRAPHS["cross_stage_partial"], {"channels.0": [0, 4], "hidden.0": [1, 2, 3]})
    parts = [node.attributes for node in cut.graph.nodes if node.op == "slice"]
    assert [(part["start"], part["end"]) for part in parts] == [(0, 2), (2, 5)]


def test_a_block_goes_with_its_constants_and_with_a_relu_that_repeats_one() -> None:
    cut = cut_graph(GRAPHS["convnext"], {}, ["add_13"])
    assert [node.name for node in cut.graph.nodes if node.op == "constant"] == []
    cut = cut_graph(resnet(), {}, ["relu_9", "relu_16"])
    assert [node.op for node in cut.graph.nodes[:4]] == ["conv", "batch_norm", "relu", "conv"]
    assert cut.graph.nodes[3].inputs == ("relu_2",)
    assert "conv_3.weight" not in cut.indices


@pytest.mark.parametrize(
    ("kept", "without", "message"),
    [
        ({"hidden.0": []}, [], "at least one"),
        ({"hidden.0": [0, 8]}, [], "below 8"),
        ({"hidden.0": [-1, 2]}, [], "below 8"),
        ({"hidden.0": [2, 1]}, [], "ascending"),
        ({"hidden.0": [1, 1]}, [], "ascending"),
        ({"heads.0": [1]}, [], "no group 'heads.0'"),
        ({}, ["add_8"], "no block 'add_8'"),
    ],
)
def test_a_cut_that_a_network_cannot_have_is_refused(kept: Kept, without: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut_graph(resnet(), kept, without)
