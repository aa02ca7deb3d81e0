"""What is seen of a graph while its channels are traced: labels of its values, and which of them are one channel."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compression.models.networks.channel_labels import STAYS, Labels, Shape, cut_axes, uncut
from compression.models.networks.graph import Node

MOST_LABELS = 1 << 24
"""Elements of all arrays of labels of a network: 128 MiB. A DenseNet-201 has about a million."""


@dataclass(frozen=True)
class TensorAxis:
    """A dimension of a tensor: one index for each of an axis of a value."""

    tensor: str
    dim: int
    labels: Labels  #: of the value
    axis: int


@dataclass
class Trace:
    """Labels of values, pairs of labels that are one channel, and the tensors that have an index for each."""

    shapes: Mapping[str, Shape]  #: of all values
    readers: Mapping[str, Sequence[Node]]  #: of all values
    labels: dict[str, Labels] = field(default_factory=dict)  #: of the values so far
    constants: set[str] = field(default_factory=set)
    pairs: list[tuple[Labels, Labels]] = field(default_factory=list)  #: two arrays of one shape
    tensors: dict[tuple[str, int], TensorAxis] = field(default_factory=dict)  #: by tensor and dimension
    shared: dict[tuple[str, int], Labels | None] = field(default_factory=dict)  #: of constants with several readers
    makers: list[tuple[str, Labels]] = field(default_factory=list)  #: operator, and the channels that it makes
    streams: list[Labels] = field(default_factory=list)  #: channels of sums of two values
    heads: list[Labels] = field(default_factory=list)  #: of values with a matrix for each head
    normalized: list[tuple[Labels, int]] = field(default_factory=list)  #: of what layer_norms read, and their axis
    count: int = STAYS + 1  #: of labels
    left: int = MOST_LABELS  #: further elements of arrays

    def spend(self, elements: int) -> None:
        """Count elements of an array before or after it is made. Raises ValueError if they become too many."""
        if elements > self.left:
            raise ValueError(f"its channels are followed through more than {MOST_LABELS:,} indices")
        self.left -= elements

    def made(self, node: Node, size: int) -> Labels:
        """Return labels (size,) of channels that a node makes."""
        self.spend(size)
        found = np.arange(self.count, self.count + size)
        self.count += size
        self.makers.append((node.op, found))
        return found

    def join(self, one: Labels, other: Labels) -> None:
        """Have the labels of two arrays, which broadcast, go together."""
        if one is not other:
            first, second = np.broadcast_arrays(one, other)
            self.spend(first.size)
            self.pairs.append((first, second))

    def stay(self, labels: Labels) -> None:
        """Have labels stay."""
        if cut_axes(labels) or labels.any():
            self.join(labels, np.broadcast_to(np.int64(STAYS), labels.shape))

    def held(self, labels: Labels) -> Labels:
        """Have labels stay. Returns those of the value, of which a cut takes nothing then."""
        self.stay(labels)
        return uncut(labels.ndim)

    def without(self, labels: Labels, axes: Sequence[int]) -> Labels:
        """Return the labels of a value that is not cut along some axes, whose indices go or stay together."""
        if not set(axes) & set(cut_axes(labels)):
            return labels
        first = labels[tuple(slice(1) if axis in axes else slice(None) for axis in range(labels.ndim))]
        if first.size == 1:
            return self.held(labels)
        self.join(first, labels)
        return first

    def channels(self, labels: Labels, axis: int) -> Labels | None:
        """Return the labels (size,) of an axis, the only one that its value is cut along then; None if it is not cut there."""
        if labels.shape[axis] == 1:
            self.stay(labels)
            return None
        return self.without(labels, [other for other in range(labels.ndim) if other != axis]).ravel()

    def meet(self, operands: Collection[tuple[Labels, Shape]]) -> Labels:
        """Join the labels of values that broadcast. Returns the result's.

        operands: labels and shape of each. All stay if one cannot be cut where another is.
        """
        cut = [labels for labels, _ in operands if cut_axes(labels)]
        for labels in cut:
            own = set(cut_axes(labels))
            for other, shape in operands:
                theirs = set(cut_axes(other))
                if not own & theirs and (theirs or any(shape[axis] > 1 for axis in own)):
                    for each in cut:
                        self.stay(each)
                    return uncut(labels.ndim)
        if not cut:
            return uncut(len(next(iter(operands))[1]))
        shape = np.broadcast_shapes(*(labels.shape for labels in cut))
        for labels in cut[1:]:
            self.join(cut[0], labels)
        return next((labels for labels in cut if labels.shape == shape), np.broadcast_to(cut[0], shape))

    def add_tensor(self, tensor: str, dim: int, labels: Labels | None, axis: int = 0) -> None:
        """Note that a dimension of a tensor has an index for each of an axis with these labels; None if that is not cut."""
        if labels is not None and labels.shape[axis] > 1:
            self.tensors[tensor, dim] = TensorAxis(tensor, dim, labels, axis)

    def add_constant(self, name: str, labels: Labels) -> None:
        """Note that a constant meets a value with these labels, as others may do too."""
        tensor, shape = f"{name}.value", self.shapes[name]
        for dim, size in enumerate(shape):
            axis = labels.ndim - len(shape) + dim
            if size == 1:
                continue
            if len(self.readers[name]) == 1:
                self.add_tensor(tensor, dim, labels, axis)
                continue
            found = None if labels.shape[axis] == 1 else self.channels(labels, axis)
            before = self.shared.setdefault((tensor, dim), found)
            self.add_tensor(tensor, dim, found)
            if before is not None and found is not None:
                self.join(before, found)
            else:
                for each in (before, found):
                    if each is not None:
                        self.stay(each)
