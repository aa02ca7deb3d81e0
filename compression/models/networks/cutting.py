"""A narrower network: the graph that is left of one without some units of its groups and without some of its blocks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from compression.models.networks.blocks import Block, residual_blocks
from compression.models.networks.channel_rules import int_of
from compression.models.networks.channels import Channels, Units, channels_of
from compression.models.networks.graph import Graph, Node, Shape, Value
from compression.models.networks.value_shapes import value_shapes

Kept = Mapping[str, Sequence[int]]
"""Key of a group → numbers of its units that stay, ascending. A group that is not named keeps all."""
Element = TypeVar("Element", bound=np.generic)


@dataclass(frozen=True)
class CutGraph:
    """A narrower graph, and where its tensors come from: each from the tensor of its own name."""

    graph: Graph
    indices: Mapping[str, Mapping[int, Units]]  #: tensor → dimension → old indices that stay, ascending, if not all do

    def cut(self, tensor: str, values: NDArray[Element]) -> NDArray[Element]:
        """Return what is left of a tensor of the old graph. Raises KeyError if nothing is."""
        for dim, indices in self.indices[tensor].items():
            values = values.take(indices, dim)
        return values


def cut_graph(graph: Graph, kept: Kept, without: Collection[str] = ()) -> CutGraph:
    """Return the network with some units of its groups, and without some residual blocks.

    kept: by the keys of `channel_groups`; without: names of `residual_blocks`. Raises ValueError if a group would have no unit,
    and for groups, units and blocks that the network does not have.
    """
    channels = channels_of(graph)
    cut = _Cut(graph, channels, _staying(channels, kept), _chosen(residual_blocks(graph), without))
    found = Graph(shape=graph.shape, nodes=cut.nodes(), output=cut.source(graph.output))
    shapes = value_shapes(found)
    if any(shapes[node.name] != cut.shape(node.name) for node in found.nodes if node.op != "constant"):
        raise AssertionError("a cut network has other shapes than its groups say")
    return CutGraph(found, {name: cut.indices(name, len(shape)) for name, shape in found.tensors().items()})


def _staying(channels: Channels, kept: Kept) -> NDArray[np.bool_]:
    """Return whether each unit of the network stays, (units + 1,); the last place is that of indices of no unit."""
    found = np.ones(channels.count + 1, bool)
    for key, units in kept.items():
        if key not in channels.units:
            raise ValueError(f"the network has no group {key!r:.100}; it has {', '.join(channels.units)[:500]}")
        numbers, count = np.asarray(units, np.int64), len(channels.units[key])
        if not len(numbers) or numbers[0] < 0 or numbers[-1] >= count or (np.diff(numbers) <= 0).any():
            raise ValueError(f"the units of {key} that stay are not ascending numbers, at least one, below {count}")
        found[channels.units[key]] = False
        found[channels.units[key][numbers]] = True
    return found


def _chosen(blocks: Sequence[Block], names: Collection[str]) -> list[Block]:
    found = [block for block in blocks if block.name in names]
    if missing := set(names) - {block.name for block in found}:
        raise ValueError(f"the network has no block {min(missing)!r:.100} that can be taken out")
    return found


class _Cut:
    """What each value, node and tensor of a graph becomes."""

    def __init__(self, graph: Graph, channels: Channels, stays: NDArray[np.bool_], without: Sequence[Block]) -> None:
        self._graph, self._stays = graph, stays
        self._tensors = channels.tensors
        self._shapes = value_shapes(graph)
        self._kept = {name: (cut.axis, stays[cut.units]) for name, cut in channels.values.items()}
        self._replaced = {block.name: block.input for block in without}
        self._gone = {name for block in without for name in block.nodes}

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes that are left."""
        return tuple(self._node(node) for node in self._graph.nodes if node.name not in self._gone)

    def source(self, name: str) -> str:
        """Return the value that stands for a value."""
        while name in self._replaced:
            name = self._replaced[name]
        return name

    def shape(self, name: str) -> Shape:
        """Return the shape of what is left of a value."""
        shape = self._shapes[name]
        if name not in self._kept:
            return shape
        axis, kept = self._kept[name]
        return (*shape[:axis], int(kept.sum()), *shape[axis + 1 :])

    def indices(self, tensor: str, dims: int) -> dict[int, Units]:
        """Return the old indices that stay, of each dimension of a tensor that loses some."""
        units = {dim: self._stays[self._tensors[tensor, dim]] for dim in range(dims) if (tensor, dim) in self._tensors}
        return {dim: np.flatnonzero(kept) for dim, kept in units.items() if not kept.all()}

    def _node(self, node: Node) -> Node:
        tensors = {}
        for role, shape in node.tensors.items():
            lost = self.indices(node.tensor(role), len(shape))
            tensors[role] = tuple(len(lost[dim]) if dim in lost else size for dim, size in enumerate(shape))
        return Node(
            name=node.name,
            op=node.op,
            inputs=tuple(map(self.source, node.inputs)),
            attributes=node.attributes | self._attributes(node),
            tensors=tensors,
        )

    def _attributes(self, node: Node) -> dict[str, Value]:
        """Return the attributes that say something of widths."""
        if node.op in ("reshape", "expand"):
            return {"shape": self.shape(node.name)}
        if node.op == "conv" and node.attributes["groups"] != 1:
            return {"groups": self.shape(node.inputs[0])[1] // node.tensors["weight"][1]}
        if node.op == "slice" and node.inputs[0] in self._kept:
            axis, kept = self._kept[node.inputs[0]]
            if axis == int_of(node, "axis") % len(self._shapes[node.name]):
                return {name: int(kept[: int_of(node, name)].sum()) for name in ("start", "end")}
        return {}
