"""Which values of a network become integers, each with one range for all of its readers.

ONNX Runtime computes a convolution with integers only if its input and its output are rounded. A ReLU, a clip or a folded
BatchNorm directly behind it joins it: then their value is rounded, and the convolution's is not. A sum, product, concatenation
or mean of rounded values is computed with integers too if its own value is rounded, which only pays where a convolution or a
linear layer reads on. Everything else stays in floating point: tokens' residual streams, gates, norms.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from compression.models.networks.folding import folds
from compression.models.networks.graph import INPUT, Graph, Node

LAYERS = frozenset({"conv", "linear"})
"""Operators with weights, which read integers."""
CALCULATED = frozenset({"add", "mul", "concat", "average_pool", "reduce_mean"})
"""Operators that runtimes have for integers, whose value has a range of its own."""
PASSED = frozenset({"relu", "max_pool", "reduce_max", "reshape", "transpose", "slice", "pad"})
"""Operators that make no new numbers of rounded ones: their value is rounded in the same range, of which 0 is a part."""
JOINED = frozenset({"relu", "clip"})


@dataclass(frozen=True)
class Rounding:
    """made: values that are rounded as they are made, so that all their readers read them rounded. read: values that only
    LAYERS read rounded. ranges: value → the one of these whose range it has, itself included.
    """

    made: frozenset[str]
    read: frozenset[str]
    ranges: Mapping[str, str]


def rounded_values(graph: Graph) -> tuple[str, ...]:
    """Return the values that are rounded, in the order in which they are made."""
    found = rounding(graph)
    return tuple(name for name in (INPUT, *(node.name for node in graph.nodes)) if name in found.made | found.read)


def rounding(graph: Graph, layers: Collection[str] = LAYERS) -> Rounding:
    """Find the values to round. layers: the operators whose inputs have ranges, convolutions among them."""
    nodes, readers = tuple(graph.used()), graph.readers()
    norms, wanted = set(folds(graph).values()), _wanted(nodes, layers)
    made: set[str] = set()
    read: set[str] = set()
    ranges: dict[str, str] = {}

    def last_of(node: Node) -> str:
        """Return the value behind a node and all that joins it."""
        while node.name != graph.output and len(readers[node.name]) == 1:
            reader = readers[node.name][0]
            if reader.op not in JOINED and reader.name not in norms:
                break
            node = reader
        return node.name

    for node in nodes:
        if node.op in layers and (value := node.inputs[0]) not in ranges:
            read.add(value)
            ranges[value] = value
        rounded = bool(node.inputs) and all(ranges.get(name, name) in made for name in node.inputs)
        if node.op == "conv" or (rounded and node.name in wanted and _has_integers(node)):
            made.add(value := last_of(node))
            ranges[value] = value
        elif rounded and node.name not in ranges and _passes(node):
            ranges[node.name] = ranges[node.inputs[0]]
    return Rounding(frozenset(made), frozenset(read), ranges)


def _wanted(nodes: Sequence[Node], layers: Collection[str]) -> set[str]:
    """Return the values that end in a layer, with nothing but operators of integers between."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.op in layers or (node.name in found and node.op in CALCULATED | PASSED | JOINED):
            found.update(node.inputs)
    return found


def _has_integers(node: Node) -> bool:
    """Return whether runtimes calculate a node with integers: of means, those of a whole map."""
    return node.op in CALCULATED and (node.op != "reduce_mean" or set(node.attributes["axes"]) == {2, 3})  # type: ignore[arg-type]  # a tuple


def _passes(node: Node) -> bool:
    return node.op in PASSED and not node.attributes.get("value")
