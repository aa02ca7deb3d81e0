"""Channels: what shrinks together is found in any graph, and what cannot shrink stays."""

import numpy as np
import pytest

from compression.models.networks.channel_rules import RULES
from compression.models.networks.channels import ChannelGroup, channel_groups
from compression.models.networks.graph import INPUT, Graph
from compression.models.networks.operators import OPERATORS
from tests.support.network_graphs import (
    NETWORKS,
    GraphBuilder,
    convnext,
    cross_stage_partial,
    densenet,
    padded_resnet,
    resnet,
    resnext,
    shufflenet,
    squeeze_excite,
    vgg,
    vit,
)


def groups_of(graph: Graph) -> dict[str, ChannelGroup]:
    return {group.key: group for group in channel_groups(graph)}


def layers_of(group: ChannelGroup) -> list[tuple[str, int]]:
    members = [member for member in group.members if member.tensor.startswith(("conv", "linear"))]
    return [(member.tensor.removesuffix(".weight"), member.dim) for member in members]


def test_every_operator_has_a_rule() -> None:
    assert RULES.keys() == OPERATORS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_units_of_a_group_are_alike_and_no_two_groups_share_an_index(name: str) -> None:
    graph = NETWORKS[name]()
    taken: dict[tuple[str, int], set[int]] = {}
    for group in channel_groups(graph):
        assert group.units > 1
        for member in group.members:
            counts = np.bincount(member.numbers, minlength=group.units)
            assert counts.min() == counts.max() > 0
            assert member.size == graph.tensors()[member.tensor][member.dim]
            assert taken.setdefault((member.tensor, member.dim), set()).isdisjoint(member.places)
            taken[member.tensor, member.dim].update(member.places.tolist())


@pytest.mark.parametrize("name", NETWORKS)
def test_colours_and_logits_belong_to_no_group(name: str) -> None:
    graph = NETWORKS[name]()
    stem = next(node for node in graph.nodes if node.op == "conv").tensor("weight")
    head = graph.named(graph.output)
    members = {(member.tensor, member.dim) for group in channel_groups(graph) for member in group.members}
    assert members.isdisjoint({(stem, 1), (head.tensor("weight"), 0), (head.tensor("bias"), 0)})


def test_a_residual_stream_is_one_group_from_its_first_block_to_its_last() -> None:
    groups = groups_of(resnet())
    assert [(key, group.units) for key, group in groups.items()] == [
        ("hidden.0", 8),
        ("channels.0", 8),
        ("channels.1", 8),
        ("channels.2", 16),
        ("hidden.1", 16),
        ("channels.3", 16),
    ]
    made = [name for name, dim in layers_of(groups["hidden.0"]) if dim == 0]
    read = [name for name, dim in layers_of(groups["hidden.0"]) if dim == 1]
    assert (len(made), len(read)) == (3, 4)  # stem and two blocks make it; two blocks, the next one and its shortcut read it


def test_zeros_that_widen_a_shortcut_stay_with_what_they_are_added_to() -> None:
    group = groups_of(padded_resnet())["hidden.0"]
    widened = next(member for member in group.members if member.size == 8)
    assert widened.units.tolist() == [-1, -1, 0, 1, 2, 3, -1, -1]


def test_each_part_of_a_concatenation_is_a_group_in_all_that_reads_it() -> None:
    graph = densenet()
    groups = groups_of(graph)
    head = f"{graph.output}.weight"
    places = [member.places for group in groups.values() for member in group.members if member.tensor == head]
    assert np.concatenate(places).tolist() == list(range(16))
    assert [len(each) for each in places] == [8, 4, 4]


def test_whole_groups_of_a_convolution_are_units() -> None:
    grouped = [group for group in groups_of(resnext()).values() if group.unit_size > 1]
    assert [(group.units, group.unit_size) for group in grouped] == [(4, 2), (4, 4)]


def test_a_gate_belongs_to_the_channels_that_it_weighs() -> None:
    groups = groups_of(squeeze_excite())
    assert layers_of(groups["channels.0"]) == [("conv_0", 0), ("conv_4", 1), ("conv_6", 0), ("conv_6.bias", 0), ("conv_9", 1)]


def test_a_channel_has_an_index_for_each_position_that_is_flattened() -> None:
    member = groups_of(vgg())["channels.1"].members[-1]
    assert member.tensor.startswith("linear")
    assert member.units.tolist() == [channel for channel in range(8) for _ in range(4)]


def test_halves_of_a_split_are_groups_of_their_own() -> None:
    groups = groups_of(cross_stage_partial())
    assert (groups["channels.0"].units, groups["hidden.0"].units) == (5, 7)
    stem = groups["hidden.0"].members[0]
    assert (stem.tensor, stem.units.tolist()) == ("conv_0.weight", [-1] * 5 + list(range(7)))


def test_a_shuffle_keeps_the_channels_together_that_it_interleaves() -> None:
    members = [member for group in channel_groups(shufflenet()) for member in group.members]
    stem = [place for member in members if member.tensor == "conv_0.weight" for place in member.places]
    assert sorted(stem) == list(range(8))
    for member in members:
        if (member.tensor, member.dim) == ("conv_31.weight", 1):  # reads the last shuffle
            assert (member.units[::2] == member.units[1::2]).all()


@pytest.mark.parametrize("packed", [False, True])
def test_a_head_is_a_unit_of_queries_keys_values_and_of_its_bias(packed: bool) -> None:
    groups = groups_of(vit(blocks=1, packed=packed))
    assert [(key, group.units) for key, group in groups.items()] == [("hidden.0", 12), ("heads.0", 3), ("ffn.0", 24)]
    sizes = sorted(len(member.places) for member in groups["heads.0"].members)
    assert sizes == ([3, 12, 36, 36] if packed else [3, *[12] * 7])  # the constant, weights and biases, what reads the values
    if packed:
        assert groups["heads.0"].members[0].units.tolist() == [head for _ in range(3) for head in range(3) for _ in range(4)]


def test_a_stream_that_a_layer_norm_reads_is_marked() -> None:
    assert {key: group.normalized for key, group in groups_of(vit(blocks=1)).items()} == {
        "hidden.0": True,
        "heads.0": False,  # the norm of its queries is over the channels of each head
        "ffn.0": False,
    }


def test_channels_stay_that_a_mean_or_a_softmax_over_them_reads() -> None:
    net = GraphBuilder()
    value = net.conv(INPUT, 6)
    norms = net.op("sqrt", net.op("reduce_sum", net.op("mul", value, value), axes=(2, 3), keep=1))
    weighed = net.op("div", norms, net.op("reduce_mean", norms, axes=(1,), keep=1))  # as in ConvNeXt V2
    value = net.conv(net.op("mul", value, weighed), 7)
    value = net.conv(net.op("softmax", value, axis=1), 8)
    assert [group.units for group in channel_groups(net.classified(value))] == [8]


def test_a_sum_over_channels_lacks_those_that_go() -> None:
    inner = groups_of(convnext(responds=True))["ffn.0"]
    assert (inner.units, inner.normalized) == (16, False)
    assert [member.tensor.split("_")[0] for member in inner.members if member.units.tolist() == [*range(16)]] == [
        *["linear"] * 2,  # the weight and bias that make it
        *["constant"] * 2,
        "linear",
    ]
    net = GraphBuilder()
    value = net.conv(INPUT, 6)
    value = net.op("div", value, net.op("reduce_sum", value, axes=(1, 2, 3), keep=1))
    assert [group.units for group in channel_groups(net.classified(value))] == [6]


def test_channels_stay_that_are_added_to_the_input() -> None:
    net = GraphBuilder()
    value = net.conv(net.op("add", INPUT, net.conv(INPUT, 3)), 6)
    assert [group.units for group in channel_groups(net.classified(value))] == [6]


def test_a_constant_that_two_values_meet_joins_their_channels() -> None:
    net = GraphBuilder()
    scale = net.constant(6, 1, 1)
    one, other = (net.op("mul", net.conv(INPUT, 6), scale) for _ in range(2))
    graph = net.classified(net.conv(net.op("concat", one, other, axis=1), 5))
    members = channel_groups(graph)[0].members
    assert [(member.tensor.split("_")[0], member.units.tolist()) for member in members] == [
        ("conv", [*range(6)]),
        ("constant", [*range(6)]),
        ("conv", [*range(6)]),
        ("conv", [*range(6), *range(6)]),
    ]


def test_products_over_channels_join_them_one_by_one() -> None:
    net = GraphBuilder()  # a non-local block (Wang et al. 2018)
    value = net.conv(INPUT, 6)
    query, key, given = (net.reshape(net.conv(value, 4, 1), 1, 4, 64) for _ in range(3))
    scores = net.op("softmax", net.op("matmul", net.transpose(query, 0, 2, 1), key), axis=-1)
    mixed = net.reshape(net.op("matmul", given, net.transpose(scores, 0, 2, 1)), 1, 4, 8, 8)
    value = net.op("add", value, net.conv(mixed, 6, 1))
    groups = groups_of(net.classified(value))
    assert {key: group.units for key, group in groups.items()} == {"hidden.0": 6, "channels.0": 4, "channels.1": 4}
    assert layers_of(groups["channels.0"]) == [("conv_1", 0), ("conv_3", 0)]


def test_a_graph_whose_shapes_do_not_fit_is_refused() -> None:
    net = GraphBuilder()
    graph = net.classified(net.conv(INPUT, 6))
    wrong = graph.model_copy(update={"shape": (4, 8, 8)})
    with pytest.raises(ValueError, match="conv_0"):
        channel_groups(wrong)


def test_a_graph_made_to_have_too_many_indices_is_refused_before_they_are_held() -> None:
    net = GraphBuilder((3, 256, 256))
    value = net.conv(INPUT, 512)
    graph = net.graph(net.linear(net.flat(value), 2))
    with pytest.raises(ValueError, match="more than 16,777,216 indices"):
        channel_groups(graph)
