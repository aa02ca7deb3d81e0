"""Compute what does not depend on the pixels: shapes, indices, weights that an exporter left unfolded."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compression.models.networks.onnx_reading.constants import (
    MOST_COMPUTED,
    TYPES,
    Array,
    Known,
    axes_of,
    axis_of,
    integers,
    parts,
    reshaped,
    room,
    slices,
    tensor_array,
    type_name,
)


@dataclass(frozen=True)
class Given:
    """The inputs of an operator that is computed."""

    values: Sequence[Any]  #: arrays; None where an input was left out
    attributes: Mapping[str, Any]
    outputs: int  #: how many results are asked for


Fold = Callable[[Given], Any]


SAME_TENSOR = ("Identity", "Cast", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose result still is the tensor that a file names."""


class Folding:
    """Compute operators of arrays. The numbers of all results together are bounded."""

    def __init__(self) -> None:
        self._left = 2 * MOST_COMPUTED

    def fold(self, op: str, inputs: Sequence[Known | None], attributes: Mapping[str, Any], outputs: int) -> list[Known]:
        """Return an operator's results. Raises ValueError, or what numpy raises, where they cannot be computed."""
        each: list[list[Array]] = []
        for side in (0, 1):
            if side and all(one is None or one.first is one.second for one in inputs):
                each.append(each[0])
                continue
            arrays = [None if one is None else (one.first, one.second)[side] for one in inputs]
            with np.errstate(all="ignore"):
                found = FOLDED[op](Given(arrays, attributes, outputs))
            each.append([np.asarray(one) for one in (found if isinstance(found, list) else [found])])
            self._left -= sum(one.size for one in each[-1] if one.base is None)  # others are parts of arrays that are there
            if self._left < 0:
                raise ValueError("the constants of this graph take too much memory")
        origin = inputs[0].origin if op in SAME_TENSOR and inputs[0] is not None else ""
        return [Known(first, second, origin) for first, second in zip(*each, strict=True)]


def _binary(compute: Callable[[Any, Any], Any]) -> Fold:
    def fold(given: Given) -> Any:
        room(np.broadcast_shapes(given.values[0].shape, given.values[1].shape))
        return np.asarray(compute(given.values[0], given.values[1]))

    return fold


def _unary(compute: Callable[[Any], Any]) -> Fold:
    return lambda given: compute(given.values[0])


def _divided(one: Array, other: Array) -> Array:
    if one.dtype.kind == "i":
        found: Array = np.trunc(one / np.where(other == 0, 1, other)).astype(one.dtype)
        return found
    return np.asarray(one / other)


def _shape(given: Given) -> Any:
    return np.array(given.values[0].shape[given.attributes.get("start", 0) : given.attributes.get("end")], np.int64)


def _product(given: Given) -> Any:
    one, other = given.values
    room((*one.shape[:-1], other.shape[-1]))
    return np.matmul(one, other)


def _gemm(given: Given) -> Any:
    one, other, *more = given.values
    one = one.T if given.attributes.get("transA", 0) else one
    other = other.T if given.attributes.get("transB", 0) else other
    room((one.shape[0], other.shape[1]))
    found = given.attributes.get("alpha", 1.0) * (one @ other)
    return (found + given.attributes.get("beta", 1.0) * more[0] if more and more[0] is not None else found).astype(one.dtype)


def _constant(given: Given) -> Any:
    (name, value), *more = given.attributes.items()
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if more or (name != "value" and name not in kinds):
        raise ValueError(f"a constant of {name!r:.60}")
    return tensor_array(value) if name == "value" else np.array(value, kinds[name])


def _filled(given: Given) -> Any:
    shape, value = integers(given.values[0]), given.attributes.get("value")
    room(shape)
    content = np.zeros(1, np.float32) if value is None else tensor_array(value)
    return np.full(shape, content.reshape(-1)[0], content.dtype)


def _cast(given: Given) -> Any:
    to = given.attributes["to"]
    if to not in TYPES:
        raise ValueError(f"a cast to {type_name(to)}")
    return given.values[0].astype(TYPES[to][0])


def _reshape(given: Given) -> Any:
    return given.values[0].reshape(reshaped(given.values[0].shape, integers(given.values[1]), given.attributes))


def _flatten(given: Given) -> Any:
    axis = given.attributes.get("axis", 1)
    axis = axis + given.values[0].ndim if axis < 0 else axis
    return given.values[0].reshape(math.prod(given.values[0].shape[:axis]), -1)


def _unsqueezed(given: Given) -> Any:
    return np.expand_dims(given.values[0], axes_of(given.values, given.attributes) or ())


def _squeezed(given: Given) -> Any:
    return np.squeeze(given.values[0], axes_of(given.values, given.attributes))


def _gathered(given: Given) -> Any:
    data, indices = given.values[:2]
    axis = axis_of(given.attributes.get("axis", 0), data.ndim)
    room((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))
    return np.take(data, indices, axis)


def _joined(given: Given) -> Any:
    room(*(value.shape for value in given.values))
    return np.concatenate(given.values, given.attributes["axis"])


def _cut(given: Given) -> Any:
    found = [slice(None)] * given.values[0].ndim
    for axis, (start, end, step) in slices(given.values, given.attributes).items():
        # An end before the first element, which counts from the right in Python, is written as None.
        last = None if step < 0 and end < -given.values[0].shape[axis] else end
        found[axis_of(axis, given.values[0].ndim)] = slice(start, last, step)
    return given.values[0][tuple(found)]


def _split(given: Given) -> Any:
    axis = axis_of(given.attributes.get("axis", 0), given.values[0].ndim)
    sizes = parts(given.values[0].shape[axis], given.outputs, given.values, given.attributes)
    return np.split(given.values[0], np.cumsum(sizes)[:-1], axis)


def _transposed(given: Given) -> Any:
    return np.transpose(given.values[0], given.attributes.get("perm"))


def _expanded(given: Given) -> Any:
    shape = np.broadcast_shapes(given.values[0].shape, integers(given.values[1]))
    room(shape)
    return np.broadcast_to(given.values[0], shape)


def _tiled(given: Given) -> Any:
    repeats = integers(given.values[1])
    room(tuple(size * repeat for size, repeat in zip(given.values[0].shape, repeats, strict=True)))
    return np.tile(given.values[0], repeats)


def _scattered(given: Given) -> Any:
    data, indices, updates = given.values
    if given.attributes.get("reduction", "none") != "none":
        raise ValueError("it combines numbers that meet")
    found = data.copy()
    found[tuple(np.moveaxis(indices, -1, 0))] = updates
    return found


def _clipped(given: Given) -> Any:
    low, high = (given.attributes.get(name) for name in ("min", "max"))
    _, low, high = (*given.values, low, high)[:3] if len(given.values) < 3 else given.values
    return given.values[0] if low is None and high is None else np.clip(given.values[0], low, high)


def _counted(given: Given) -> Any:
    start, end, step = (value.reshape(-1)[0] for value in given.values)
    room((max(math.ceil((end - start) / step), 0) if step else -1,))
    found: Array = np.arange(start, end, step).astype(given.values[0].dtype)
    return found


def _chosen(given: Given) -> Any:
    room(np.broadcast_shapes(*(value.shape for value in given.values)))
    return np.where(*given.values)


def _reduced(compute: Callable[..., Any]) -> Fold:
    def fold(given: Given) -> Any:
        axes = axes_of(given.values, given.attributes)
        if not axes and given.attributes.get("noop_with_empty_axes"):
            return given.values[0]
        keep = bool(given.attributes.get("keepdims", 1))
        return np.asarray(compute(given.values[0], axis=axes or None, keepdims=keep), given.values[0].dtype)

    return fold


FOLDED: dict[str, Fold] = {
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(_divided),
    "Pow": _binary(lambda one, other: np.power(one, other).astype(one.dtype)),
    "Mod": _binary(lambda one, other: np.mod(one, np.where(other == 0, 1, other))),
    "Min": _binary(np.minimum),
    "Max": _binary(np.maximum),
    "Equal": _binary(np.equal),
    "Less": _binary(np.less),
    "Greater": _binary(np.greater),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Not": _unary(np.logical_not),
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Sqrt": _unary(np.sqrt),
    "Exp": _unary(np.exp),
    "Log": _unary(np.log),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Reciprocal": _unary(np.reciprocal),
    "Clip": _clipped,
    "Relu": _unary(lambda value: np.maximum(value, 0)),
    "Sigmoid": _unary(lambda value: (1 / (1 + np.exp(-value))).astype(value.dtype)),
    "MatMul": _product,
    "Gemm": _gemm,
    "Identity": _unary(lambda value: value),
    "Dropout": _unary(lambda value: value),
    "Shape": _shape,
    "Size": _unary(lambda value: np.array(value.size, np.int64)),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Cast": _cast,
    "CastLike": lambda given: given.values[0].astype(given.values[1].dtype),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Gather": _gathered,
    "Concat": _joined,
    "Slice": _cut,
    "Split": _split,
    "Transpose": _transposed,
    "Expand": _expanded,
    "Tile": _tiled,
    "ScatterND": _scattered,
    "Range": _counted,
    "Where": _chosen,
    "ReduceProd": _reduced(np.prod),
    "ReduceMean": _reduced(np.mean),
    "ReduceSum": _reduced(np.sum),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
}
"""ONNX operator → what computes it of arrays: an array, or a list of them."""
