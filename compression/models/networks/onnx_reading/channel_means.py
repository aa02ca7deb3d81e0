"""Write means over channels as sums times a number, whose channels can be cut: a sum lacks what goes, as a layer's sum does."""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from compression.models.networks.channel_rules import ints_of
from compression.models.networks.channels import channels_of
from compression.models.networks.graph import Graph, Node
from compression.models.networks.onnx_reading.constants import Array
from compression.models.networks.value_shapes import value_shapes


def without_channel_means(
    graph: Graph, tensors: Mapping[str, Array], unique: Callable[[str], str]
) -> tuple[Graph, dict[str, Array]]:
    """Return the same network without means over an axis that can be cut, with its tensors.

    The number stays that of the whole network's channels, so a cut network computes what the whole one does with zeros in place
    of the others. unique: makes names that no node has. Raises ValueError if the graph's nodes do not fit each other.
    """
    shapes = value_shapes(graph)
    means = [node for node in graph.nodes if node.op == "reduce_mean" and len(ints_of(node, "axes")) == 1]
    if not means:
        return graph, dict(tensors)
    cut = channels_of(_summed(graph, means, unique)[0]).values

    def is_of_channels(node: Node) -> bool:
        (axis,), (value,) = ints_of(node, "axes"), node.inputs
        return value in cut and cut[value].axis == axis % len(shapes[value])

    found, numbers = _summed(graph, [node for node in means if is_of_channels(node)], unique)
    return found, {**tensors, **{name: np.full(1, 1 / count, np.float32) for name, count in numbers.items()}}


def _summed(graph: Graph, means: Collection[Node], unique: Callable[[str], str]) -> tuple[Graph, dict[str, int]]:
    """Return the graph with sums in place of means, and what the new tensors divide by."""
    shapes, names = value_shapes(graph), {node.name for node in means}
    nodes, numbers = list[Node](), dict[str, int]()
    for node in graph.nodes:
        if node.name not in names:
            nodes.append(node)
            continue
        (axis,) = ints_of(node, "axes")
        total = node.model_copy(update={"name": unique(f"{node.name}_total"), "op": "reduce_sum"})
        part = Node(name=unique(f"{node.name}_part"), op="constant", tensors={"value": (1,)})
        nodes += [total, part, Node(name=node.name, op="mul", inputs=(total.name, part.name), tensors={})]
        numbers[part.tensor("value")] = shapes[node.inputs[0]][axis]
    return Graph(shape=graph.shape, nodes=tuple(nodes), output=graph.output), numbers
