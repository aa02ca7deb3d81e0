"""Values whose axes ONNX has in another order than the network: the batch anywhere, axes merged, axes of size 1.

Exporters move the batch: attention makes (3, rows, heads, tokens, width), torch's MultiheadAttention (tokens × rows, width). A
network keeps it first. So transposing, merging and inserting axes only changes how a `Value` names its axes, and nodes follow
where an operator needs them in order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compression.models.networks.graph import Shape
from compression.models.networks.onnx_reading.constants import ROWS
from compression.models.networks.onnx_reading.draft import Draft

Axes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Size:
    """Size of an axis: a number, times the rows if the batch is in it."""

    factor: int
    batch: bool = False

    def of(self, rows: int) -> int:
        """Return the size with a number of rows."""
        return self.factor * rows if self.batch else self.factor


@dataclass(frozen=True)
class Value:
    """A value of the network as an ONNX operator sees it. hint: how to name nodes that lay it out."""

    name: str  #: of the network's node
    sizes: Shape  #: of its axes, the batch's factor first
    axes: Axes  #: ONNX axis → the node's axes that it runs through, outer ones first; none where its size is 1
    hint: str = "layout"

    @property
    def shape(self) -> tuple[Size, ...]:
        """Return the sizes of the ONNX axes."""
        return tuple(Size(math.prod(self.sizes[axis] for axis in group), 0 in group) for group in self.axes)

    @property
    def is_plain(self) -> bool:
        """Return whether the ONNX axes are those of the node."""
        return self.axes == tuple((axis,) for axis in range(len(self.sizes)))

    @property
    def batch(self) -> int:
        """Return the ONNX axis that the batch is in."""
        return next(place for place, group in enumerate(self.axes) if 0 in group)


def value_of(draft: Draft, name: str) -> Value:
    """Return a node's value with its own axes."""
    sizes = draft.shapes[name]
    return Value(name, sizes, tuple((axis,) for axis in range(len(sizes))), name)


def sizes_of(first: Sequence[int], second: Sequence[int]) -> tuple[Size, ...]:
    """Return sizes by what they are for the two numbers of rows. Raises ValueError if one is not in proportion to the rows."""
    if len(first) != len(second):
        raise ValueError("the number of axes depends on the number of rows")
    found = []
    for one, other in zip(first, second, strict=True):
        batch = one != other
        factor = one // ROWS[0] if batch else one
        if batch and (one, other) != (factor * ROWS[0], factor * ROWS[1]):
            raise ValueError(f"an axis has {one} elements with {ROWS[0]} rows and {other} with {ROWS[1]}")
        found.append(Size(factor, batch))
    if sum(size.batch for size in found) != 1:
        raise ValueError("not one axis, but none or several, have the rows in them; export with the batch axis alone free")
    return tuple(found)


def plain(draft: Draft, value: Value) -> Value | None:
    """Return the value laid out as ONNX has it; None if its first axis does not begin with the batch."""
    if value.is_plain:
        return value
    if not value.axes or value.axes[0][:1] != (0,):
        return None
    key = (value.name, value.axes)
    if key not in draft.laid_out:
        name = _ordered(draft, value)
        wanted = tuple(size.factor for size in value.shape)
        if draft.shapes[name] != wanted:
            name = draft.emit("reshape", [name], value.hint, {}, shape=wanted)
        draft.laid_out[key] = name
    return value_of(draft, draft.laid_out[key])


def _ordered(draft: Draft, value: Value) -> str:
    """Return the name of the node with its axes in the order of ONNX's, those of size 1 that ONNX has not last."""
    order = [axis for group in value.axes for axis in group]
    order += [axis for axis in range(len(value.sizes)) if axis not in order]
    wide = [axis for axis in order if axis == 0 or value.sizes[axis] > 1]
    if wide == sorted(wide):
        return value.name  # only axes of size 1 move: a reshape does that
    return draft.emit("transpose", [value.name], value.hint, {}, order=tuple(order))


def batch_first(draft: Draft, value: Value) -> Value | None:
    """Return the value with one axis of its node for each ONNX axis, the batch's first and the others in ONNX's order.

    None if the rows are not the outermost part of their axis.
    """
    place = value.batch
    moved = replace(value, axes=(value.axes[place], *value.axes[:place], *value.axes[place + 1 :]))
    found = plain(draft, moved)
    if found is None or place == 0:
        return found
    axes = ((axis,) for axis in (*range(1, place + 1), 0, *range(place + 1, len(value.axes))))
    return replace(found, axes=tuple(axes))


def settled(draft: Draft, value: Value) -> Value:
    """Return the value in the most ordinary layout that it can have: plain, with the batch first, else merged."""
    return plain(draft, value) or batch_first(draft, value) or _merged(draft, value)


def _merged(draft: Draft, value: Value) -> Value:
    """Return a value whose rows are not the outermost part of their axis with one axis for each other ONNX axis, in order."""
    place = value.batch
    inside = value.axes[place].index(0)
    outer, inner = value.axes[place][:inside], value.axes[place][inside:]
    groups = [inner, *value.axes[:place], outer, *value.axes[place + 1 :]]
    found = plain(draft, replace(value, axes=tuple(groups)))
    if found is None:
        return value
    axes: list[tuple[int, ...]] = [(axis + 1,) for axis in range(len(value.axes))]
    axes[place] = (place + 1, 0)
    return replace(found, axes=tuple(axes))


def transposed(value: Value, order: Sequence[int], hint: str) -> Value:
    """Permute the ONNX axes. Raises ValueError if that is no permutation."""
    if sorted(order) != list(range(len(value.axes))):
        raise ValueError(f"its order {list(order)} does not permute {len(value.axes)} axes")
    return replace(value, axes=tuple(value.axes[axis] for axis in order), hint=hint)


def without(value: Value, axes: Sequence[int]) -> Value:
    """Remove ONNX axes of size 1. Raises ValueError if one is larger."""
    if any(value.shape[axis] != Size(1) for axis in axes):
        raise ValueError(f"one of the axes {list(axes)} has not the size 1")
    return replace(value, axes=tuple(group for axis, group in enumerate(value.axes) if axis not in axes))


def reshaped(draft: Draft, value: Value, wanted: Sequence[Size], hint: str) -> Value:
    """Give the ONNX value other sizes. Raises ValueError if the rows would not stay whole."""
    found = _regrouped(draft, value, wanted, hint)
    if found is None:
        before = plain(draft, value)
        if before is None or not wanted or not wanted[0].batch:
            raise ValueError(f"it reshapes {shown(value.shape)} to {shown(wanted)}, which takes rows apart")
        name = draft.emit("reshape", [before.name], hint, {}, shape=tuple(size.factor for size in wanted))
        found = value_of(draft, name)
    return found


def whole(sizes: Sequence[Size]) -> Size:
    """Return the size of several axes together."""
    return Size(math.prod(size.factor for size in sizes), any(size.batch for size in sizes))


def shown(sizes: Sequence[Size]) -> str:
    """Return sizes as text, for a cause."""
    return f"({', '.join(f'{size.factor} × rows' if size.batch else str(size.factor) for size in sizes)})"


def _regrouped(draft: Draft, value: Value, wanted: Sequence[Size], hint: str) -> Value | None:
    """Reshape by merging and splitting axes of the node; None where sizes do not divide each other.

    From the right, each new axis takes whole axes of the node, or the inner part of one, until it has its size.
    """
    left = [(axis, value.sizes[axis]) for group in value.axes for axis in group if axis == 0 or value.sizes[axis] > 1]
    pieces: dict[int, list[int]] = {axis: [] for axis, _ in left}
    groups: list[list[tuple[int, int]]] = []  # of each new axis: axis of the node, number of the piece, from the right
    rows_left = True
    for size in reversed(wanted):
        group: list[tuple[int, int]] = []
        need, rows = size.factor, size.batch
        while need > 1 or rows:
            if not left:
                return None
            axis, rest = left[-1]
            if axis == 0 and rest == 1:
                if not rows:
                    return None
                rows = rows_left = False
                # The rows and the outermost part of their factor stay one axis if they are in one new axis.
                if not (group and group[-1][0] == 0):
                    group.append((0, len(pieces[0])))
                    pieces[0].append(1)
                left.pop()
                continue
            taken = math.gcd(need, rest)
            if taken not in (need, rest) or taken == 1:
                return None
            group.append((axis, len(pieces[axis])))
            pieces[axis].append(taken)
            need //= taken
            left[-1] = (axis, rest // taken)
            if rest == taken and axis != 0:
                left.pop()
        groups.append(group)
    if rows_left or left:
        return None
    return _split(draft, value, pieces, groups, hint)


def _split(draft: Draft, value: Value, pieces: dict[int, list[int]], groups: list[list[tuple[int, int]]], hint: str) -> Value:
    """Return the value with its node's axes in pieces, those from the right, and the new ONNX axes, from the right too."""
    numbers: dict[tuple[int, int], int] = {}
    sizes: list[int] = []
    for axis in sorted(pieces):
        for piece in reversed(range(len(pieces[axis]))):
            numbers[axis, piece] = len(sizes)
            sizes.append(pieces[axis][piece])
    name = value.name
    if any(len(each) > 1 for each in pieces.values()):
        name = draft.emit("reshape", [name], hint, {}, shape=tuple(sizes))
    else:  # the axes of size 1 are still there
        numbers, sizes = {(axis, 0): axis for axis in pieces}, list(value.sizes)
    axes = tuple(tuple(numbers[part] for part in reversed(group)) for group in reversed(groups))
    return Value(name, tuple(sizes), axes, hint)
