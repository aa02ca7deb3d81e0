"""One operator of an ONNX graph while it is read: its inputs and attributes, and the nodes that it becomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compression.models.networks.graph import Value as Attribute
from compression.models.networks.onnx_reading.constants import ROWS, Array, Known, integers
from compression.models.networks.onnx_reading.draft import Draft, tensor_hint
from compression.models.networks.onnx_reading.layout import Value, batch_first, plain, settled, value_of

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Call:
    """One operator. What does not fit raises ValueError; the reader adds the operator's name."""

    op: str
    hint: str  #: a name for its nodes
    inputs: Sequence[Value | Known | None]
    attributes: Mapping[str, Any]
    draft: Draft
    opset: int
    outputs: int = 1

    def given(self, place: int) -> Value | Known | None:
        """Return an input, None if it was left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def value(self, place: int = 0) -> Value:
        """Return an input that depends on the pixels. Raises ValueError."""
        found = self.given(place)
        if isinstance(found, Known):
            return repeated(self.draft, found, self.hint)
        if found is None:
            raise ValueError(f"it has no input {place}")
        return found

    def plain(self, place: int = 0) -> Value:
        """Return an input with the batch first. Raises ValueError if it cannot be laid out so."""
        found = plain(self.draft, self.value(place))
        if found is None:
            raise ValueError(f"the first axis of its input {place} is not the batch")
        return found

    def constant(self, place: int, what: str) -> Array:
        """Return an input that is a constant. Raises ValueError."""
        found = self.given(place)
        if not isinstance(found, Known):
            raise ValueError(f"its {what} is not a constant")
        return found.constant

    def optional(self, place: int, what: str) -> Array | None:
        """Return an input that is a constant, None if it was left out or is empty. Raises ValueError."""
        found = None if self.given(place) is None else self.constant(place, what)
        return found if found is None or found.size else None

    def number(self, place: int, what: str, otherwise: float) -> float:
        """Return an input that is one number. Raises ValueError."""
        found = self.optional(place, what)
        if found is not None and found.size != 1:
            raise ValueError(f"its {what} is not one number")
        return otherwise if found is None else float(found.reshape(-1)[0])

    def tensor_hint(self, place: int) -> str:
        """Return a name by that of a weight in the file, else by the operator's."""
        found = self.given(place)
        scope = self.hint.rpartition("/")[0] or self.hint  # "layer1.0/conv1" of "layer1.0/conv1/conv"
        return tensor_hint(found.origin, scope) if isinstance(found, Known) else scope

    def emit(self, op: str, /, *inputs: Value | str, **attributes: Attribute) -> Value:
        """Add a node to the network and return its value. Raises ValueError if it does not fit."""
        names = [each if isinstance(each, str) else each.name for each in inputs]
        return value_of(self.draft, self.draft.emit(op, names, self.hint, {}, **attributes))

    def weighted(
        self, op: str, value: Value, place: int, tensors: Mapping[str, Array | None], /, **attributes: Attribute
    ) -> Value:
        """Add a node with tensors, named after the one that is the input at a place. Raises ValueError if it does not fit."""
        hint = self.tensor_hint(place)
        return value_of(self.draft, self.draft.emit(op, [value.name], hint, tensors, **attributes))

    def fixed(self, array: Array, hint: str) -> str:
        """Add a constant and return its name."""
        # Not one for all that read it: exporters store equal weights once, and what shares a constant would shrink together.
        return self.draft.emit("constant", [], hint, {"value": array})

    def unary(self, op: str, value: Value | None = None, /, **attributes: Attribute) -> Value:
        """Apply an operator of single numbers, in whatever layout the value has."""
        found = settled(self.draft, self.value() if value is None else value)
        return replace(self.emit(op, found, **attributes), axes=found.axes)

    def axes(self, place: int = 1) -> tuple[int, ...] | None:
        """Return the axes that are named, as an attribute or, from operator set 13 or 18 on, as an input."""
        if "axes" in self.attributes:
            return tuple(self.attributes["axes"])
        found = self.given(place)
        return None if found is None else integers(self.constant(place, "axes"))


def repeated(draft: Draft, known: Known, hint: str) -> Value:
    """Return a constant that is repeated for each row, such as a class token, as a value. Raises ValueError if it is not."""
    first, second = known.first, known.second
    places = [axis for axis, (one, other) in enumerate(zip(first.shape, second.shape, strict=False)) if one != other]
    if first.ndim != second.ndim or len(places) != 1 or (first.shape[places[0]], second.shape[places[0]]) != ROWS:
        raise ValueError("one of its inputs is a constant, of as many rows whatever the batch")
    place = places[0]
    row, *others = np.moveaxis(first, place, 0)
    if any(not np.array_equal(row, other) for other in (*others, *np.moveaxis(second, place, 0))):
        raise ValueError("one of its inputs is a constant with another value for each row")
    name = draft.emit("constant", [], known.origin or hint, {"value": row[None]})
    found = value_of(draft, draft.emit("expand", [name], hint, {}, shape=(1, *row.shape)))
    axes = tuple((axis,) for axis in (*range(1, place + 1), 0, *range(place + 1, first.ndim)))
    return replace(found, axes=axes)


Read = Callable[[Call], Value | Known | list[Value]]
"""Turns an operator into nodes and returns its values. Raises ValueError with what does not fit."""


def together(draft: Draft, values: Sequence[Value]) -> list[Value]:
    """Return values laid out alike, with as many axes: all plain, all with the batch first, or as they are if that is alike.

    Raises ValueError if they have not the batch in the same place.
    """
    most = max(len(value.axes) for value in values)
    padded = [replace(value, axes=((),) * (most - len(value.axes)) + value.axes) for value in values]
    if len({value.batch for value in padded}) != 1:
        raise ValueError("its inputs have the batch in different axes")
    for lay_out in (plain, batch_first):
        found = [lay_out(draft, value) for value in padded]
        ready = [value for value in found if value is not None]
        if len(ready) == len(values):
            return ready
    if len({(value.axes, value.sizes) for value in padded}) != 1:
        raise ValueError("its inputs have the batch in different places")
    return padded
