"""Residual blocks: what is computed from a value, added to it and read by nothing else can be taken out."""

from compression.models.networks.blocks import block_kinds, residual_blocks
from compression.models.networks.graph import INPUT
from tests.support.network_graphs import GraphBuilder, densenet, mobilenet_v2, resnet, vit


def test_blocks_with_a_projection_are_no_blocks_to_take_out() -> None:
    graph = resnet((2, 2))
    assert [(block.name, block.input) for block in residual_blocks(graph)] == [
        ("relu_9", "relu_2"),
        ("relu_16", "relu_9"),
        ("relu_32", "relu_25"),
    ]
    assert residual_blocks(densenet()) == ()


def test_a_relu_stays_where_the_shortcut_is_not_one() -> None:
    (block,) = residual_blocks(mobilenet_v2())
    assert (block.name, block.input) == ("add_19", "batch_norm_10")
    assert block.nodes == tuple(node.name for node in mobilenet_v2().nodes[11:20])


def test_attention_and_feed_forward_are_blocks_of_their_own_with_their_constants() -> None:
    graph = vit(blocks=1)
    attention, feed_forward = residual_blocks(graph)
    assert feed_forward.input == attention.name
    assert [graph.named(name).op for name in attention.nodes].count("constant") == 2
    assert {"softmax", "matmul"} < {graph.named(name).op for name in attention.nodes}
    assert [graph.named(name).op for name in feed_forward.nodes] == [
        "layer_norm",
        "linear",
        "gelu",
        "linear",
        "constant",
        "mul",
        "add",
    ]


def test_blocks_are_of_a_kind_if_they_compute_the_same_on_values_of_the_same_sizes() -> None:
    graph = resnet((3, 2, 2), 8)
    assert block_kinds(graph, residual_blocks(graph)) == (0, 0, 0, 1, 2)
    graph = vit(blocks=3)
    assert block_kinds(graph, residual_blocks(graph)) == (0, 1) * 3
    graph = vit(blocks=0)
    assert block_kinds(graph, residual_blocks(graph)) == ()


def test_another_stride_kernel_or_order_is_another_kind() -> None:
    net = GraphBuilder()
    value = net.conv(INPUT, 4)
    for kernel, groups in ((3, 1), (1, 1), (3, 1), (3, 4)):
        value = net.op("add", value, net.conv(value, 4, kernel, groups=groups))
    value = net.op("add", net.conv(value, 4), value)
    graph = net.classified(value)
    assert block_kinds(graph, residual_blocks(graph)) == (0, 1, 0, 2, 3)


def test_a_block_within_a_branch_comes_before_the_one_around_it() -> None:
    net = GraphBuilder()
    value = net.conv(INPUT, 4)
    first = net.conv(value, 4)
    inner = net.op("add", first, net.conv(first, 4))
    outer = net.op("add", value, inner)
    assert [(block.name, block.input, len(block.nodes)) for block in residual_blocks(net.classified(outer))] == [
        (inner, first, 2),
        (outer, value, 4),
    ]


def test_what_something_else_reads_or_what_reads_something_else_stays() -> None:
    net = GraphBuilder()
    value = net.conv(INPUT, 4)
    branch = net.conv(value, 4)
    summed = net.op("add", value, branch)  # the branch is read below
    second = net.conv(net.op("mul", summed, branch), 4)
    summed = net.op("add", summed, second)  # the branch is not of the sum alone
    gated = net.op("add", summed, net.op("mul", summed, net.constant(4, 8, 8)))  # no layer
    doubled = net.op("add", gated, gated)
    assert residual_blocks(net.classified(doubled)) == ()


def test_a_constant_that_others_read_stays() -> None:
    net = GraphBuilder()
    scale = net.constant(4, 1, 1)
    value = net.op("mul", net.conv(INPUT, 4), scale)
    summed = net.op("add", net.op("mul", net.conv(value, 4), scale), value)
    (block,) = residual_blocks(net.classified(summed))
    assert block.nodes == ("conv_3", "mul_4", "add_5")
