"""The channels of a network that shrink together: derived from its graph, for any network. numpy, no torch.

Every output of a convolution or a linear layer is a channel (a filter of Li et al. 2017). What a channel passes through has an
index for it; where two channels meet (a residual sum, a gate, a depthwise convolution, the heads of an attention), both go or
both stay. Channels that stay or go together are one unit; units that the same tensors and values have alike are a group
(the idea of dependency graphs, Fang et al. 2023, without running the network).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compression.models.architectures.pruning_groups import key_of
from compression.models.networks.channel_labels import Labels, along, components, cut_axes, uncut, varying_axis
from compression.models.networks.channel_rules import RULES
from compression.models.networks.channel_trace import Trace
from compression.models.networks.graph import INPUT, Graph
from compression.models.networks.value_shapes import value_shapes

Units = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Member:
    """A dimension of a tensor that shrinks with a group."""

    tensor: str  #: "node.role"
    dim: int
    size: int
    places: Units  #: indices that belong to a unit, ascending
    numbers: Units  #: the unit of each of these

    @property
    def units(self) -> Units:
        """Return the unit of each index, (size,); -1 for indices of none."""
        found = np.full(self.size, -1)
        found[self.places] = self.numbers
        return found


@dataclass(frozen=True)
class ChannelGroup:
    """Units that shrink together: each has as many indices as any other in every tensor."""

    axis: str  #: hidden, heads, channels or ffn
    number: int  #: among those of its axis, in the order of the graph
    units: int  #: at least 2
    members: tuple[Member, ...]
    normalized: bool  #: whether a layer_norm reads it: its statistics are others without some units

    @property
    def key(self) -> str:
        """Return its name, "axis.number"."""
        return key_of(self.axis, self.number)

    @property
    def unit_size(self) -> int:
        """Return the indices of a unit in the tensor that makes it: more than 1 for heads and for groups of a convolution."""
        return len(self.members[0].places) // self.units


@dataclass(frozen=True)
class CutAxis:
    """A dimension that can be cut: the number of the unit of each index, -1 where it stays."""

    axis: int
    units: Units  #: numbers of units of the whole network


@dataclass(frozen=True)
class Channels:
    """The channels of a graph. Units are numbered throughout the network."""

    groups: tuple[ChannelGroup, ...]
    units: Mapping[str, Units]  #: key of a group → the network's numbers of its units
    values: Mapping[str, CutAxis]  #: values that can be cut
    tensors: Mapping[tuple[str, int], Units]  #: tensor and dimension → unit of each index
    count: int  #: of units


def channel_groups(graph: Graph) -> tuple[ChannelGroup, ...]:
    """Return the groups of a graph in its order. Raises ValueError as `channels_of`."""
    return channels_of(graph).groups


def channels_of(graph: Graph) -> Channels:
    """Return the channels of a graph.

    Raises ValueError if its nodes do not fit each other, or if its channels have too many indices to follow.
    """
    trace = _traced(graph)
    found = _joined(trace)
    return _Grouping(trace, found).channels()


def _traced(graph: Graph) -> Trace:
    trace = Trace(value_shapes(graph), graph.readers())
    trace.labels[INPUT] = uncut(4)
    for node in graph.nodes:
        labels = RULES[node.op](trace, node)
        if labels.size == 1 and labels.any():  # a single index, or equal ones: no cut leaves something of it
            labels = trace.held(labels)
        if all(labels is not trace.labels[name] for name in node.inputs):
            trace.spend(labels.size)
        trace.labels[node.name] = labels
    trace.stay(trace.labels[graph.output])
    return trace


def _joined(trace: Trace) -> Labels:
    """Return the component of each label. What is left of a value must be a box: one axis alone decides what is cut.

    If several would (a channel shuffle), it is the last of them, so that a cut network has the groups of the whole one.
    """
    found = components(np.arange(trace.count), trace.pairs)
    for labels in trace.labels.values():
        if len(cut_axes(labels)) > 1 and varying_axis(joined := found[labels]) is None:
            trace.spend(trace.count)
            last = cut_axes(labels)[-1]
            found = components(found, [(np.broadcast_to(along(joined, last), joined.shape), joined)])
    return found


class _Grouping:
    """Makes units of labels that are joined, and groups of units."""

    def __init__(self, trace: Trace, joined: Labels) -> None:
        self._trace = trace
        roots, numbers = np.unique(joined, return_inverse=True)
        self._unit: Units = numbers - 1  # of each label; -1 for those that stay, whose root is the lowest
        self._count = len(roots) - 1
        self._cuts: dict[int, CutAxis | None] = {}  # by identity of the labels, which the trace keeps
        self._group = self._grouped()
        self._unit = np.where(self._group[self._unit] >= 0, self._unit, -1)
        self._cuts.clear()
        order = np.argsort(self._group[:-1], kind="stable")  # -1, of units that stay, comes first
        runs = np.split(order, np.flatnonzero(np.diff(self._group[order])) + 1)
        self._own = [run for run in runs if len(run) and self._group[run[0]] >= 0]  # units of each group

    def channels(self) -> Channels:
        """Return the channels, groups in the order of their first units."""
        members, normalized, axes = self._members(), self._normalized(), self._axes()
        groups: list[ChannelGroup] = []
        numbers: Counter[str] = Counter()
        for own, found in zip(self._own, members, strict=True):
            axis = next((axis for axis, flags in axes if flags[own].any()), "ffn")
            groups.append(ChannelGroup(axis, numbers[axis], len(own), tuple(found), bool(normalized[own].any())))
            numbers[axis] += 1
        units = {group.key: own for group, own in zip(groups, self._own, strict=True)}
        values = {name: cut for name, labels in self._trace.labels.items() if (cut := self._cut(labels)) is not None}
        return Channels(tuple(groups), units, values, dict(self._tensors()), self._count)

    def _grouped(self) -> Units:
        """Return the group of each unit, (units + 1,); -1 for a unit without others like it, which stays, and for unit -1.

        Units are alike if each value has as many indices of the one as of the other: sums of a random number per value tell.
        """
        random, sums = np.random.default_rng(0), np.zeros(self._count, np.uint64)
        for labels in self._trace.labels.values():
            if id(labels) not in self._cuts and (cut := self._cut(labels)) is not None:
                np.add.at(sums, cut.units[cut.units >= 0], random.integers(1 << 64, dtype=np.uint64))
        _, first, alike, size = np.unique(sums, return_index=True, return_inverse=True, return_counts=True)
        order = [group for group in np.argsort(first) if size[group] > 1]
        number = np.full(len(first), -1)
        number[order] = np.arange(len(order))
        return np.append(number[alike], -1)

    def _cut(self, labels: Labels) -> CutAxis | None:
        if id(labels) not in self._cuts:
            units = self._unit[labels]
            axis = varying_axis(units)
            cut = None if axis is None else CutAxis(axis, along(units, axis).ravel())
            self._cuts[id(labels)] = cut if cut is not None and (cut.units >= 0).any() else None
        return self._cuts[id(labels)]

    def _tensors(self) -> Iterator[tuple[tuple[str, int], Units]]:
        """Yield tensor, dimension and the units of its indices, in the order of the graph."""
        for key, one in self._trace.tensors.items():
            cut = self._cut(one.labels)
            if cut is not None and cut.axis == one.axis:
                yield key, cut.units

    def _members(self) -> list[list[Member]]:
        found: list[list[Member]] = [[] for _ in self._own]
        number = np.zeros(self._count + 1, np.int64)  # of a unit in its group
        for own in self._own:
            number[own] = np.arange(len(own))
        parts: dict[int, list[tuple[int, Units, Units]]] = {}
        for (tensor, dim), units in self._tensors():
            if id(units) not in parts:
                groups = self._group[units]
                order = np.argsort(groups, kind="stable")
                order = order[groups[order] >= 0]
                at = np.flatnonzero(np.diff(groups[order])) + 1
                parts[id(units)] = [(int(groups[run[0]]), run, number[units[run]]) for run in np.split(order, at)]
            for group, places, numbers in parts[id(units)]:
                found[group].append(Member(tensor, dim, len(units), places, numbers))
        return found

    def _normalized(self) -> Flags:
        cuts = ((self._cut(labels), axis) for labels, axis in self._trace.normalized)
        return self._flags(cut.units for cut, axis in cuts if cut is not None and cut.axis == axis)

    def _axes(self) -> list[tuple[str, Flags]]:
        """Return the axes, the first that a unit is of counts, and which units are of each."""
        convolved = (labels for op, labels in self._trace.makers if op == "conv")
        return [
            (axis, self._flags(self._unit[labels] for labels in found))
            for axis, found in (("heads", self._trace.heads), ("hidden", self._trace.streams), ("channels", convolved))
        ]

    def _flags(self, units: Iterable[Units]) -> Flags:
        """Return which units are among these, (units + 1,); the last place is that of what stays."""
        found = np.zeros(self._count + 1, bool)
        for each in units:
            found[each] = True
        return found
