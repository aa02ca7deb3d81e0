"""Residual blocks that can be taken out of a network: what reads a value and is added to it, and nothing else reads."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from compression.models.networks.graph import INPUT, Graph, Node
from compression.models.networks.value_shapes import value_shapes

MOST_NODES = 1_000
"""Of a block: what is larger is no block."""
_LAYERS = {"conv", "linear"}


@dataclass(frozen=True)
class Block:
    """A sum x + f(x): without f, what reads the sum reads x."""

    name: str  #: of the node whose value x stands for
    input: str  #: x
    nodes: tuple[str, ...]  #: that go, in the order of the graph; the named one is the last


def residual_blocks(graph: Graph) -> tuple[Block, ...]:
    """Return the blocks in the order in which they end; a block within a branch of another comes before it.

    f has a layer with weights and reads x and constants alone. A ReLU directly behind the sum goes too if x is one's value: a
    second changes nothing. Raises ValueError if the graph's nodes do not fit each other.
    """
    shapes, readers = value_shapes(graph), graph.readers()
    places = {INPUT: -1} | {node.name: number for number, node in enumerate(graph.nodes)}
    found = []
    for node in graph.nodes:
        if node.op != "add" or shapes[node.inputs[0]] != shapes[node.inputs[1]]:
            continue
        for value, branch in (node.inputs, node.inputs[::-1]):
            inner = _branch(graph, places, value, branch)
            names = {node.name, *(each.name for each in inner)}
            read_elsewhere = {each.name for each in inner if any(one.name not in names for one in readers.get(each.name, ()))}
            inner = [each for each in inner if each.op != "constant" or each.name not in read_elsewhere]
            read_elsewhere.add(graph.output)
            if _is_block(value, inner) and read_elsewhere.isdisjoint(each.name for each in inner):
                found.append(_block(graph, places, value, [*inner, node], readers))
                break
    return tuple(found)


def block_kinds(graph: Graph, blocks: Sequence[Block]) -> tuple[int, ...]:
    """Return a number for each block: blocks have the same if they have the same operators on values of the same sizes.

    Numbers are from 0, in order of appearance. Raises ValueError if the graph's nodes do not fit each other.
    """
    shapes, nodes = value_shapes(graph), {node.name: node for node in graph.nodes}
    kinds: dict[Hashable, int] = {}

    def described(block: Block) -> Hashable:
        places = {name: number for number, name in enumerate(block.nodes)}  # a value from elsewhere counts by its size alone
        own = (nodes[name] for name in block.nodes)
        return tuple(
            (
                node.op,
                tuple(sorted(node.attributes.items())),
                tuple(sorted(node.tensors.items())),
                tuple((places.get(name, -1), shapes[name]) for name in node.inputs),
            )
            for node in own
        )

    return tuple(kinds.setdefault(described(block), len(kinds)) for block in blocks)


def _branch(graph: Graph, places: Mapping[str, int], value: str, end: str) -> list[Node]:
    """Return the nodes that compute `end` from a value and constants alone; none if there are others or too many."""
    left, found = [end], dict[str, Node]()
    while left:
        name = left.pop()
        if name == value or name in found:
            continue
        node = graph.nodes[places[name]]
        if name == INPUT or len(found) == MOST_NODES or (places[name] < places[value] and node.op != "constant"):
            return []
        found[name] = node
        left += node.inputs
    return sorted(found.values(), key=lambda node: places[node.name])


def _is_block(value: str, inner: Sequence[Node]) -> bool:
    return any(node.op in _LAYERS for node in inner) and any(value in node.inputs for node in inner)


def _block(
    graph: Graph, places: Mapping[str, int], value: str, nodes: Sequence[Node], readers: Mapping[str, Sequence[Node]]
) -> Block:
    after = readers.get(nodes[-1].name, ())
    if value != INPUT and graph.nodes[places[value]].op == "relu" and [node.op for node in after] == ["relu"]:
        nodes = [*nodes, *after]
    return Block(nodes[-1].name, value, tuple(node.name for node in nodes))
