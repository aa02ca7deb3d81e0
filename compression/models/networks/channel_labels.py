"""Arrays of labels: which channel each index of a value's axes belongs to, and which channels are one.

Labels of a value have one axis for each of the value's, of size 1 where a cut leaves the axis as it is. A label is the number
of a channel; `STAYS` is that of all indices that always stay.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Shape = tuple[int, ...]
STAYS = 0


def cut_axes(labels: Labels) -> tuple[int, ...]:
    """Return the axes that the labels tell apart."""
    return tuple(axis for axis, size in enumerate(labels.shape) if size > 1)


def uncut(axes: int) -> Labels:
    """Return the labels of a value of which a cut takes nothing."""
    return np.full((1,) * axes, STAYS)


def compressed(labels: Labels) -> Labels:
    """Leave one index of each axis along which the labels are equal."""
    for axis in cut_axes(labels):
        first = labels.take([0], axis)
        if np.array_equal(np.broadcast_to(first, labels.shape), labels):
            labels = first
    return labels


def on_axis(labels: Labels, axis: int, axes: int) -> Labels:
    """Return labels (size,) as those of one axis of a value with `axes` axes."""
    return labels.reshape([-1 if number == axis else 1 for number in range(axes)])


def reshaping(labels: Labels, old: Shape, new: Shape) -> tuple[Shape, Shape]:
    """Return the shape that labels are repeated to, and the one that they get then, where a value's shape is changed."""
    full, target = [*labels.shape], []
    for before, after in _chunks(old, new):
        if any(full[axis] > 1 for axis in before):
            for axis in before:
                full[axis] = old[axis]
            target += [new[axis] for axis in after]
        else:
            target += [1] * len(after)
    return tuple(full), tuple(target)


def _chunks(old: Shape, new: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the smallest runs of axes of both shapes that have the same number of elements."""
    at, to = 0, 0
    while at < len(old) or to < len(new):
        before, after = [at] if at < len(old) else [], [to] if to < len(new) else []
        while (left := math.prod(old[axis] for axis in before)) != (right := math.prod(new[axis] for axis in after)):
            if left < right:
                before.append(at + len(before))
            else:
                after.append(to + len(after))
        yield before, after
        at, to = at + len(before), to + len(after)


def varying_axis(labels: Labels) -> int | None:
    """Return the one axis that the labels depend on, the longest if they depend on none; None if they depend on several."""
    for axis in sorted(cut_axes(labels), key=lambda number: -labels.shape[number]):
        if np.array_equal(np.broadcast_to(along(labels, axis), labels.shape), labels):
            return axis
    return None


def along(labels: Labels, axis: int) -> Labels:
    """Return the labels at the first index of every axis but one."""
    return labels[tuple(slice(None) if number == axis else slice(1) for number in range(labels.ndim))]


def components(labels: Labels, pairs: Sequence[tuple[Labels, Labels]]) -> Labels:
    """Return the lowest label of each label's component, after joining pairs.

    labels: (n,), the component of each label so far. All labels hook on at once and paths are halved, in about log n rounds
    (Shiloach and Vishkin 1982).
    """
    found = labels.copy()
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs] or [labels[:0]]) for side in (0, 1))
    while True:
        low, high = np.minimum(found[one], found[other]), np.maximum(found[one], found[other])
        apart = low != high
        if not apart.any():
            return found
        one, other = one[apart], other[apart]
        np.minimum.at(found, high[apart], low[apart])
        while not np.array_equal(shorter := found[found], found):
            found = shorter
