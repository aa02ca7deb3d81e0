"""The cost model: equal to counting the tensors and the multiplications of the graph that a cut makes."""

from math import prod

import pytest
from hypothesis import given, settings, strategies

from compression.models.networks.costs import STATISTICS, network_facts
from compression.models.networks.cutting import cut_graph
from compression.models.networks.graph import INPUT, Graph
from compression.models.networks.value_shapes import value_shapes
from compression.schema.report.network import NetworkFacts
from tests.support.network_graphs import NETWORKS, GraphBuilder, resnet

GRAPHS = {name: make() for name, make in NETWORKS.items()}
FACTS = {name: network_facts(graph) for name, graph in GRAPHS.items()}


def counted(graph: Graph) -> tuple[int, int]:
    """Count parameters and running statistics, tensor by tensor."""
    tensors = [
        (role, prod(shape))
        for node in graph.nodes
        for role, shape in node.tensors.items()
        if node.op != "constant" or prod(shape) > 1
    ]
    buffers = sum(size for role, size in tensors if role in STATISTICS)
    return sum(size for _, size in tensors) - buffers, buffers


def multiplied(graph: Graph) -> int:
    """Count the multiplications of each number that a layer or a product computes."""
    shapes, found = value_shapes(graph), 0
    for node in graph.nodes:
        each = {
            "conv": lambda node: prod(node.tensors["weight"][1:]),
            "linear": lambda node: node.tensors["weight"][1],
            "matmul": lambda node: shapes[node.inputs[0]][-1],
        }.get(node.op, lambda _: 0)(node)
        found += each * prod(shapes[node.name])
    return found


@given(name=strategies.sampled_from(sorted(GRAPHS)), data=strategies.data())
@settings(max_examples=60, deadline=None)
def test_costs_at_any_widths_are_those_of_the_graph_that_is_cut_so(name: str, data: strategies.DataObject) -> None:
    facts = FACTS[name]
    widths = {group.key: data.draw(strategies.integers(1, group.units), group.key) for group in facts.groups}
    blocks = [block.name for block in facts.blocks if data.draw(strategies.booleans(), block.name)]
    graph = cut_graph(GRAPHS[name], {key: range(units) for key, units in widths.items()}, blocks).graph
    assert (facts.parameters(widths, blocks), facts.statistics(widths, blocks)) == counted(graph)
    assert facts.multiply_adds(widths, blocks) == multiplied(graph)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_whole_network_costs_what_its_graph_says_and_facts_survive_json(name: str) -> None:
    facts, graph = FACTS[name], GRAPHS[name]
    assert (facts.parameters(), facts.statistics(), facts.multiply_adds()) == (*counted(graph), multiplied(graph))
    assert NetworkFacts.model_validate_json(facts.model_dump_json()) == facts
    assert (facts.inputs, facts.outputs) == (3 * 8 * 8, 5)


def test_values_are_counted_for_a_row() -> None:
    net = GraphBuilder((3, 4, 4))
    value = net.pool(net.op("relu", net.conv(INPUT, 2)))
    facts = network_facts(net.graph(net.linear(net.mean(value), 5)))
    assert facts.values == 2 * 16 + 2 * 16 + 2 * 4 + 2 + 5


def test_a_resnet_152_has_its_published_parameters() -> None:
    net = resnet((3, 8, 36, 3), 64, bottleneck=True, size=56)
    facts = network_facts(net)
    stem = 64 * 3 * 9
    published = 60_192_808 - 64 * 3 * 49 - 2048 * 1000 - 1000  # of torchvision's, whose stem is 7 x 7, and 1000 classes
    assert facts.parameters() - stem - 2048 * 5 - 5 == published
    assert len(facts.blocks) == 3 - 1 + 8 - 1 + 36 - 1 + 3 - 1


def test_widths_that_a_group_cannot_have_are_refused() -> None:
    facts = FACTS["resnet"]
    for widths in ({"hidden.0": 0}, {"hidden.0": 9}):
        with pytest.raises(ValueError, match=r"hidden\.0 has 8 units"):
            facts.parameters(widths)
    with pytest.raises(KeyError):
        facts.multiply_adds({"hidden.7": 1})
