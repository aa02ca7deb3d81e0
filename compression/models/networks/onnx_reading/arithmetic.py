"""ONNX's operators of single numbers, of two values and over axes, as nodes of a network."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from compression.models.networks.onnx_reading.call import LARGEST, Call, Read, repeated, together
from compression.models.networks.onnx_reading.constants import Array, Known, axis_of
from compression.models.networks.onnx_reading.layout import Value, settled


def arithmetic(op: str, call: Call) -> Value:
    """Combine inputs one after another, of which one at least depends on the pixels. Raises ValueError."""
    found = call.given(0)
    for place in range(1, len(call.inputs)):
        found = _pair(op, call, found, call.given(place))
    if not isinstance(found, Value):
        raise ValueError("it has one input, which is a constant")
    return found


def _pair(op: str, call: Call, one: Value | Known | None, other: Value | Known | None) -> Value:
    if one is None or other is None:
        raise ValueError("an input is left out")
    one, other = (
        repeated(call.draft, each, call.hint) if isinstance(each, Known) and each.first.shape != each.second.shape else each
        for each in (one, other)
    )
    if isinstance(one, Value) and isinstance(other, Value):
        first, second = together(call.draft, [one, other])
        made = call.emit(op, first, second)
        return replace(made, axes=first.axes)
    if isinstance(one, Value) and isinstance(other, Known):
        value, name = _beside(call, one, other)
        return replace(call.emit(op, value, name), axes=value.axes)
    if isinstance(one, Known) and isinstance(other, Value):
        value, name = _beside(call, other, one)
        return replace(call.emit(op, name, value), axes=value.axes)
    raise ValueError("its inputs are constants that are not computed")


def _beside(call: Call, value: Value, known: Known) -> tuple[Value, str]:
    """Return a value, and the name of a constant that is laid out as its node is."""
    array, axes = known.constant, max(len(value.axes), known.constant.ndim)
    value = settled(call.draft, replace(value, axes=((),) * (axes - len(value.axes)) + value.axes))
    if not value.is_plain:
        array = _laid_out(array.reshape((1,) * (axes - array.ndim) + array.shape), value)
    return value, call.fixed(array, known.origin or f"{call.hint}_constant")


def _laid_out(array: Array, value: Value) -> Array:
    """Lay an array with the ONNX axes out as the value's node. Raises ValueError if it differs from row to row."""
    sizes: dict[int, int] = {}
    for size, group in zip(array.shape, value.axes, strict=True):
        if len(group) == 1:
            sizes[group[0]] = size
        else:
            whole = size == math.prod(value.sizes[axis] for axis in group)
            if not whole and size != 1:
                raise ValueError(f"a constant of {size} elements in an axis is repeated in it")
            sizes |= {axis: value.sizes[axis] if size > 1 else 1 for axis in group}
    absent = [axis for axis in range(len(value.sizes)) if axis not in sizes]
    order = [*sizes, *absent]
    spread = array.reshape(tuple(sizes.values()) + (1,) * len(absent))
    return np.transpose(spread, [order.index(axis) for axis in range(len(order))])


def _mean(call: Call) -> Value:
    found = arithmetic("add", call)
    count = call.fixed(np.array(len(call.inputs), np.float32), f"{call.hint}_count")
    return replace(call.emit("div", found, count), axes=found.axes)


def _clip(call: Call) -> Value:
    if call.opset < 11:
        low, high = (float(call.attributes.get(name, edge)) for name, edge in (("min", -LARGEST), ("max", LARGEST)))
    else:
        low, high = call.number(1, "minimum", -LARGEST), call.number(2, "maximum", LARGEST)
    low, high = max(low, -LARGEST), min(high, LARGEST)  # infinite bounds have no place in JSON
    return call.unary("relu") if (low, high) == (0, LARGEST) else call.unary("clip", low=low, high=high)


def _prelu(call: Call) -> Value:
    value, slope = call.plain(), call.constant(1, "slope")
    if slope.ndim == len(value.sizes) and slope.shape[0] == 1:
        slope = slope[0]
    return call.weighted("prelu", value, 1, {"slope": slope})


def softmax(call: Call) -> Value:
    """Normalize one axis. Raises ValueError."""
    value = call.value()
    axis = axis_of(call.attributes.get("axis", -1 if call.opset >= 13 else 1), len(value.axes))
    if call.opset < 13 and math.prod(size.factor for size in value.shape[axis + 1 :]) > 1:
        raise ValueError(f"it normalizes over all axes from {axis} on; export for operator set 13 or later")
    found = settled(call.draft, value)
    if len(found.axes[axis]) != 1:
        raise ValueError("the axis that it normalizes is not apart from the others")
    return replace(call.emit("softmax", found, axis=found.axes[axis][0]), axes=found.axes)


def _reduce(op: str, call: Call) -> Value:
    axes, value = call.axes(), call.value()
    if not axes and call.attributes.get("noop_with_empty_axes"):
        return value
    return _reduced(op, call, value, axes, keep=bool(call.attributes.get("keepdims", 1)))


def _reduced(op: str, call: Call, value: Value, axes: Sequence[int] | None, *, keep: bool) -> Value:
    count = len(value.axes)
    wanted = sorted({axis_of(axis, count) for axis in (axes or range(count))})
    found = settled(call.draft, value)
    if any(len(found.axes[axis]) != 1 or found.axes[axis] == (0,) for axis in wanted):
        raise ValueError("it reduces the rows, or an axis that is not apart from the others")
    if found.is_plain:
        return call.emit(op, found, axes=tuple(wanted), keep=int(keep))
    made = call.emit(op, found, axes=tuple(sorted(found.axes[axis][0] for axis in wanted)), keep=1)
    made = replace(made, axes=found.axes)
    if keep:
        return made
    return replace(made, axes=tuple(group for axis, group in enumerate(made.axes) if axis not in wanted))


def _norm(call: Call, *, root: bool) -> Value:
    """ReduceL2, or ReduceSumSquare without the root."""
    value = settled(call.draft, call.value())
    squared = replace(call.emit("mul", value, value), axes=value.axes)
    found = _reduced("reduce_sum", call, squared, call.axes(), keep=bool(call.attributes.get("keepdims", 1)))
    return call.unary("sqrt", found) if root else found


def _smallest(call: Call) -> Value:
    negative = call.unary("neg")
    found = _reduced("reduce_max", call, negative, call.axes(), keep=bool(call.attributes.get("keepdims", 1)))
    return call.unary("neg", found)


def _unary(op: str, *attributes: tuple[str, str, float]) -> Read:
    """attributes: the network's name, ONNX's, and ONNX's default."""
    return lambda call: call.unary(op, **{own: float(call.attributes.get(name, default)) for own, name, default in attributes})


def _gelu(call: Call) -> Value:
    return call.unary("gelu", approximate=str(call.attributes.get("approximate", "none")))


def _swish(call: Call) -> Value:
    if call.attributes.get("alpha", 1.0) != 1:
        raise ValueError(f"its alpha is {call.attributes['alpha']} and not 1")
    return call.unary("silu")


ARITHMETIC: dict[str, Read] = {
    "Add": partial(arithmetic, "add"),
    "Sum": partial(arithmetic, "add"),
    "Sub": partial(arithmetic, "sub"),
    "Mul": partial(arithmetic, "mul"),
    "Div": partial(arithmetic, "div"),
    "Pow": partial(arithmetic, "pow"),
    "Min": partial(arithmetic, "minimum"),
    "Max": partial(arithmetic, "maximum"),
    "Mean": _mean,
    "Clip": _clip,
    "PRelu": _prelu,
    "Softmax": softmax,
    "ReduceMean": partial(_reduce, "reduce_mean"),
    "ReduceSum": partial(_reduce, "reduce_sum"),
    "ReduceMax": partial(_reduce, "reduce_max"),
    "ReduceMin": _smallest,
    "ReduceL2": partial(_norm, root=True),
    "ReduceSumSquare": partial(_norm, root=False),
    "Relu": _unary("relu"),
    "Sigmoid": _unary("sigmoid"),
    "Tanh": _unary("tanh"),
    "Softplus": _unary("softplus"),
    "Softsign": _unary("softsign"),
    "HardSwish": _unary("hard_swish"),
    "Mish": _unary("mish"),
    "Erf": _unary("erf"),
    "Exp": _unary("exp"),
    "Log": _unary("log"),
    "Sqrt": _unary("sqrt"),
    "Reciprocal": _unary("reciprocal"),
    "Neg": _unary("neg"),
    "Abs": _unary("abs"),
    "LeakyRelu": _unary("leaky_relu", ("slope", "alpha", 0.01)),
    "Elu": _unary("elu", ("alpha", "alpha", 1.0)),
    "HardSigmoid": _unary("hard_sigmoid", ("alpha", "alpha", 0.2), ("beta", "beta", 0.5)),
    "Gelu": _gelu,
    "Swish": _swish,
}
