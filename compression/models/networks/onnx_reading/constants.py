"""What of an ONNX graph is known before it runs: weights, and arithmetic with shapes.

Exporters write a reshape as Shape → Gather → Concat → Reshape. So everything that does not depend on the pixels is computed,
for two numbers of rows: what differs between them is a multiple of the rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, Any]
ROWS = (5, 7)
"""Two numbers of rows. Both are prime and no usual width, so a multiple of both is a multiple of the rows."""
MOST_NUMBERS = 1 << 28
"""Of one tensor of the file."""
MOST_COMPUTED = 1 << 26
"""Numbers of one constant that is computed of others; all together have at most twice as many."""
TYPES: dict[int, tuple[np.dtype[Any], str]] = {
    onnx.TensorProto.FLOAT: (np.dtype(np.float32), "float_data"),
    onnx.TensorProto.DOUBLE: (np.dtype(np.float64), "double_data"),
    onnx.TensorProto.INT64: (np.dtype(np.int64), "int64_data"),
    onnx.TensorProto.INT32: (np.dtype(np.int32), "int32_data"),
    onnx.TensorProto.BOOL: (np.dtype(np.bool_), "int32_data"),
}
"""Types of tensors that a network of float32 has: numpy's, and the field with numbers that are not stored as bytes."""


@dataclass(frozen=True, eq=False)
class Known:
    """An array that does not depend on the pixels. origin: the name of the tensor in the file that it was made of."""

    first: Array  #: with ROWS[0] rows
    second: Array  #: with ROWS[1] rows; the same object where rows do not matter
    origin: str = ""

    @property
    def constant(self) -> Array:
        """Return the array. Raises ValueError if it depends on the number of rows."""
        if self.first is not self.second and not np.array_equal(self.first, self.second):
            raise ValueError("a number in it depends on the number of rows")
        return self.first


def known(array: Array, origin: str = "") -> Known:
    """Return an array as one that rows do not matter to."""
    return Known(array, array, origin)


def type_name(number: int) -> str:
    """Return the name of a type of ONNX's tensors, for a cause."""
    return (
        str(onnx.TensorProto.DataType.Name(number)).lower()
        if number in onnx.TensorProto.DataType.values()
        else f"type {number}"
    )


def tensor_array(tensor: onnx.TensorProto) -> Array:
    """Return a tensor's numbers. Raises ValueError if it has another type, or more or fewer bytes than its shape says."""
    if tensor.data_type not in TYPES:
        known_types = ", ".join(map(type_name, TYPES))
        raise ValueError(f"the tensor {tensor.name!r:.100} is of {type_name(tensor.data_type)}, not one of: {known_types}")
    shape = tuple(tensor.dims)
    count = math.prod(shape)
    if len(shape) > 8 or any(size < 0 for size in shape) or count > MOST_NUMBERS:
        raise ValueError(
            f"the tensor {tensor.name!r:.100} has the shape {list(shape[:9])}; {MOST_NUMBERS:,} numbers are the most"
        )
    dtype, field = TYPES[tensor.data_type]
    if tensor.HasField("raw_data"):
        found = np.frombuffer(tensor.raw_data, dtype.newbyteorder("<"))
    else:
        found = np.array(getattr(tensor, field), dtype)
    if found.size != count:
        raise ValueError(f"the tensor {tensor.name!r:.100} has {found.size:,} numbers, its shape {list(shape)} {count:,}")
    return found.reshape(shape)


def room(*shapes: Sequence[int]) -> None:
    """Check that arrays of these shapes may be made. Raises ValueError."""
    if any(any(size < 0 for size in shape) for shape in shapes) or sum(math.prod(shape) for shape in shapes) > MOST_COMPUTED:
        raise ValueError(f"it computes a constant of more than {MOST_COMPUTED:,} numbers")


def integers(array: Array | None) -> tuple[int, ...]:
    """Return the whole numbers of an array of at most one axis. Raises ValueError."""
    if array is None or array.dtype.kind != "i" or array.ndim > 1 or array.size > 64:
        raise ValueError("a list of whole numbers is missing, or something else")
    return tuple(int(number) for number in array.reshape(-1))


def axis_of(axis: int, axes: int) -> int:
    """Return the number of an axis counted from the left. Raises ValueError."""
    if not -axes <= axis < axes:
        raise ValueError(f"there is no axis {axis} among {axes}")
    return axis % axes


def axes_of(values: Sequence[Any], attributes: Mapping[str, Any], place: int = 1) -> tuple[int, ...] | None:
    """Return the axes that an operator names, as an attribute up to operator set 12 or as an input; None if it names none."""
    if "axes" in attributes:
        return tuple(attributes["axes"])
    return integers(values[place]) if len(values) > place and values[place] is not None else None


def reshaped(shape: Sequence[int], wanted: Sequence[int], attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the sizes that ONNX's Reshape means: 0 copies one, -1 is what is left. Raises ValueError."""
    found = list(wanted)
    if not attributes.get("allowzero"):
        if any(size == 0 and place >= len(shape) for place, size in enumerate(found)):
            raise ValueError(f"the shape {list(wanted)} copies sizes of {list(shape)}")
        found = [shape[place] if size == 0 else size for place, size in enumerate(found)]
    rest = math.prod(size for size in found if size != -1)
    if found.count(-1) == 1 and rest > 0:
        found[found.index(-1)] = math.prod(shape) // rest
    if any(size < 0 for size in found) or math.prod(found) != math.prod(shape):
        raise ValueError(f"{list(shape)} does not become {list(wanted)}")
    return tuple(found)


def slices(values: Sequence[Any], attributes: Mapping[str, Any]) -> dict[int, tuple[int, int, int]]:
    """Return what ONNX's Slice takes of each axis: start, end and step, not yet clamped. Raises ValueError."""
    if "starts" in attributes:
        starts, ends = tuple(attributes["starts"]), tuple(attributes["ends"])
        axes, steps = attributes.get("axes"), None
    else:
        starts, ends = integers(values[1]), integers(values[2])
        axes = integers(values[3]) if len(values) > 3 and values[3] is not None else None
        steps = integers(values[4]) if len(values) > 4 and values[4] is not None else None
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if 0 in steps or len(set(axes)) != len(axes):
        raise ValueError("it slices an axis twice, or without a step")
    return {axis: (start, end, step) for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)}


def parts(size: int, count: int, values: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the sizes that ONNX's Split cuts an axis into. Raises ValueError."""
    given = attributes.get("split") or (integers(values[1]) if len(values) > 1 and values[1] is not None else None)
    if given is None:
        wide = -(-size // count)
        given = (*(wide for _ in range(count - 1)), size - wide * (count - 1))
    if len(given) != count or sum(given) != size or min(given) < 1:
        raise ValueError(f"it splits {size} into {list(given)} for {count} outputs")
    return tuple(given)
