"""What a network costs at any widths: the facts that planning reads, taken from a graph and its channels. Torch-free."""

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from compression.models.networks.blocks import residual_blocks
from compression.models.networks.channel_rules import int_of
from compression.models.networks.channels import Channels, Units, channels_of
from compression.models.networks.graph import Graph, Node, Shape
from compression.models.networks.value_shapes import value_shapes
from compression.schema.report.network import BlockFacts, Count, GroupFacts, LayerFacts, NetworkFacts

STATISTICS = ("running_mean", "running_var")
"""Roles of tensors that are buffers; all others are parameters, except a constant of a single number."""

FREE = ("relu", "clip", "reshape")
"""Operators that runtimes join with the one before, or that move nothing."""


def network_facts(graph: Graph) -> NetworkFacts:
    """Return the cost model of a network. Raises ValueError if the graph's nodes do not fit each other."""
    channels, shapes = channels_of(graph), value_shapes(graph)
    counting = _Counting(channels, shapes)
    layers = tuple(_KINDS.get(node.op, _move)(counting, node) for node in graph.nodes if node.op not in FREE)
    names = {layer.name for layer in layers}
    return NetworkFacts(
        layers=layers,
        groups=tuple(
            GroupFacts(
                key=group.key, axis=group.axis, units=group.units, unit_size=group.unit_size, normalized=group.normalized
            )
            for group in channels.groups
        ),
        blocks=tuple(
            BlockFacts(name=block.name, layers=tuple(name for name in block.nodes if name in names))
            for block in residual_blocks(graph)
        ),
        inputs=prod(graph.shape),
        outputs=prod(shapes[graph.output]),
        values=sum(prod(shapes[node.name]) for node in graph.nodes if node.op != "constant"),
    )


class _Counting:
    """Counts indices of dimensions by the groups that they belong to."""

    def __init__(self, channels: Channels, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self._channels = channels
        self._keys = [group.key for group in channels.groups]
        self._group = np.full(channels.count + 1, len(self._keys))  # of each unit; the last is of those that stay
        for number, key in enumerate(self._keys):
            self._group[channels.units[key]] = number

    def dimension(self, node: Node, role: str, dim: int) -> Count:
        """Return the size of a tensor's dimension."""
        return self._count(node.tensors[role][dim], self._channels.tensors.get((node.tensor(role), dim)))

    def axis(self, value: str, axis: int) -> Count:
        """Return the size of a value's axis."""
        cut = self._channels.values.get(value)
        return self._count(self.shapes[value][axis], cut.units if cut is not None and cut.axis == axis else None)

    def cut_axis(self, value: str) -> int:
        """Return the axis that a value is cut along, the last if along none."""
        cut = self._channels.values.get(value)
        return len(self.shapes[value]) - 1 if cut is None else cut.axis

    def places(self, value: str) -> int:
        """Return at how many places a value has its channels."""
        shape = self.shapes[value]
        return prod(shape) // shape[self.cut_axis(value)]

    def _count(self, size: int, units: Units | None) -> Count:
        if units is None:
            return Count(fixed=size)
        indices = np.bincount(self._group[units], minlength=len(self._keys) + 1)
        found = {self._keys[group]: int(indices[group]) for group in np.flatnonzero(indices[:-1])}
        return Count(fixed=int(indices[-1]), units={key: each // len(self._channels.units[key]) for key, each in found.items()})


def _conv(counting: _Counting, node: Node) -> LayerFacts:
    shape = counting.shapes[node.name]
    return LayerFacts(
        name=node.name,
        kind="conv",
        outputs=counting.dimension(node, "weight", 0),
        inputs=counting.dimension(node, "weight", 1),
        grouped=int_of(node, "groups") > 1,
        area=prod(node.tensors["weight"][2:]),
        positions=shape[0] * prod(shape[2:]),
        vectors=int("bias" in node.tensors),
    )


def _linear(counting: _Counting, node: Node) -> LayerFacts:
    return LayerFacts(
        name=node.name,
        kind="linear",
        outputs=counting.dimension(node, "weight", 0),
        inputs=counting.dimension(node, "weight", 1),
        positions=prod(counting.shapes[node.name][:-1]),
        vectors=int("bias" in node.tensors),
    )


def _matmul(counting: _Counting, node: Node) -> LayerFacts:
    # A value is cut along one axis alone; what is summed over is another.
    summed = node.inputs[0]
    return LayerFacts(
        name=node.name,
        kind="matmul",
        outputs=counting.axis(node.name, counting.cut_axis(node.name)),
        inputs=counting.axis(summed, len(counting.shapes[summed]) - 1),
        positions=counting.places(node.name),
    )


def _move(counting: _Counting, node: Node) -> LayerFacts:
    largest = max((node.name, *node.inputs), key=lambda value: prod(counting.shapes[value]))
    outputs = counting.axis(largest, counting.cut_axis(largest))
    return LayerFacts(name=node.name, kind="move", outputs=outputs, inputs=Count(), positions=counting.places(largest))


def _norm(counting: _Counting, node: Node) -> LayerFacts:
    buffers = sum(role in STATISTICS for role in node.tensors)
    return LayerFacts(
        name=node.name,
        kind="norm",
        outputs=counting.dimension(node, "weight", 0),
        inputs=Count(),
        vectors=len(node.tensors) - buffers,
        statistics=buffers,
    )


def _elements(counting: _Counting, node: Node) -> LayerFacts:
    ((role, shape),) = node.tensors.items()
    counts = [counting.dimension(node, role, dim) for dim in range(len(shape))]
    outputs = next((count for count in counts if count.units), Count(fixed=1))
    fixed = prod(count.fixed for count in counts if count is not outputs)
    kind = "constant" if node.op == "constant" else "slope"
    return LayerFacts(name=node.name, kind=kind, outputs=outputs, inputs=Count(fixed=1), area=fixed)


_KINDS: dict[str, Callable[[_Counting, Node], LayerFacts]] = {
    "conv": _conv,
    "linear": _linear,
    "matmul": _matmul,
    "batch_norm": _norm,
    "layer_norm": _norm,
    "constant": _elements,
    "prelu": _elements,
}
