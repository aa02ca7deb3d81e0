"""ONNX's operators that compute with weights or windows, as nodes of a network: convolutions, linear layers, norms, pools."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from compression.models.networks.onnx_reading.arithmetic import ARITHMETIC, arithmetic, softmax
from compression.models.networks.onnx_reading.call import Call, Read, together
from compression.models.networks.onnx_reading.constants import Array, Known, axis_of, known
from compression.models.networks.onnx_reading.layout import Size, Value, reshaped, settled, transposed, whole
from compression.models.networks.onnx_reading.rearranging import REARRANGING


def _window(call: Call, kernel: Sequence[int], sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return stride, padding and dilation of a convolution or pool over all its axes."""
    axes = len(kernel)
    stride = tuple(call.attributes.get("strides", (1,) * axes))
    dilation = tuple(call.attributes.get("dilations", (1,) * axes))
    padding = tuple(call.attributes.get("pads", (0,) * 2 * axes))
    if len(stride) != axes or len(dilation) != axes or len(padding) != 2 * axes or len(sizes) != axes or min(stride) < 1:
        raise ValueError(f"its window of {axes} axes has the strides {stride}, pads {padding} and dilations {dilation}")
    automatic = call.attributes.get("auto_pad", "NOTSET")
    if automatic == "VALID":
        padding = (0,) * 2 * axes
    elif automatic in ("SAME_UPPER", "SAME_LOWER"):
        reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
        needed = [
            max((-(-size // step) - 1) * step + wide - size, 0) for size, step, wide in zip(sizes, stride, reach, strict=True)
        ]
        less, more = tuple(each // 2 for each in needed), tuple(each - each // 2 for each in needed)
        padding = (*less, *more) if automatic == "SAME_UPPER" else (*more, *less)
    elif automatic != "NOTSET":
        raise ValueError(f"its auto_pad is {automatic!r:.60}")
    return {"stride": stride, "padding": padding, "dilation": dilation}


def _flat(window: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return a window over one axis as one over a height of 1 and this axis as its width."""
    (stride,), (before, after), (dilation,) = window["stride"], window["padding"], window["dilation"]
    return {"stride": (1, stride), "padding": (0, before, 0, after), "dilation": (1, dilation)}


def _conv(call: Call) -> Value:
    value, weight, bias = call.plain(), call.constant(1, "weight"), call.optional(2, "bias")
    rows, channels, *sizes = value.sizes
    window = _window(call, weight.shape[2:], sizes)
    groups = int(call.attributes.get("group", 1))
    emit = partial(call.weighted, "conv")
    if weight.ndim == 4:
        return emit(value, 1, {"weight": weight, "bias": bias}, groups=groups, **window)
    if weight.ndim != 3:
        raise ValueError(f"its weight has the shape {weight.shape}: only one or two axes are convolved")
    wide = call.emit("reshape", value, shape=(rows, channels, 1, *sizes))
    found = emit(wide, 1, {"weight": weight[:, :, None], "bias": bias}, groups=groups, **_flat(window))
    return call.emit("reshape", found, shape=(*found.sizes[:2], found.sizes[3]))


def _pool(op: str, call: Call) -> Value:
    value, kernel = call.plain(), tuple(call.attributes["kernel_shape"])
    if len(kernel) != 2:
        raise ValueError(f"its window has {len(kernel)} axes and not two")
    if call.attributes.get("storage_order"):
        raise ValueError("its storage_order is not 0")
    window = _window(call, kernel, value.sizes[2:])
    ceil = int(bool(call.attributes.get("ceil_mode", 0)))
    if op == "max_pool":
        return call.emit(op, value, kernel=kernel, ceil=ceil, **window)
    if window.pop("dilation") != (1, 1):
        raise ValueError("it is dilated")
    count_padding = int(bool(call.attributes.get("count_include_pad", 0)))
    return call.emit(op, value, kernel=kernel, ceil=ceil, count_padding=count_padding, **window)


def _global_pool(op: str, call: Call) -> Value:
    value = call.plain()
    return call.emit(op, value, axes=tuple(range(2, len(value.sizes))), keep=1)


def _linear(call: Call, value: Value, weight: Array, bias: Array | None, place: int) -> Value:
    """Apply weights (outputs, inputs) to the last ONNX axis."""
    found = settled(call.draft, value)
    if not found.axes or found.axes[-1] != (len(found.sizes) - 1,):
        raise ValueError("the axis that it is applied to is not apart from the others")
    made = call.weighted("linear", found, place, {"weight": weight, "bias": bias})
    return replace(made, axes=found.axes)


def _matmul(call: Call) -> Value:
    one, other = call.given(0), call.given(1)
    if isinstance(other, Known) and other.constant.ndim == 2:
        return _linear(call, call.value(0), other.constant.T, None, 1)
    if isinstance(one, Known) or isinstance(other, Known):
        place = 0 if isinstance(other, Known) else 1
        value, array = call.plain(place), call.constant(1 - place, "other input")
        if not 2 <= array.ndim <= len(value.sizes):
            raise ValueError(f"its constant has the shape {array.shape}")
        name = call.fixed(array, f"{call.tensor_hint(1 - place)}_matrix")
        return call.emit("matmul", *((value, name) if place == 0 else (name, value)))
    if len(call.value(0).axes) != len(call.value(1).axes):
        raise ValueError("its inputs have not as many axes")
    first, second = together(call.draft, [call.value(0), call.value(1)])
    if first.batch >= len(first.axes) - 2 or len(first.axes) != len(first.sizes):
        raise ValueError("its batch is in an axis that is multiplied")
    return replace(call.emit("matmul", first, second), axes=first.axes)


def _gemm(call: Call) -> Value:
    value, weight = call.value(0), call.constant(1, "matrix")
    if call.attributes.get("transA", 0) or weight.ndim != 2 or len(value.axes) != 2:
        raise ValueError("its first matrix is transposed, or one has not two axes")
    weight = weight if call.attributes.get("transB", 0) else weight.T
    alpha, beta = float(call.attributes.get("alpha", 1.0)), float(call.attributes.get("beta", 1.0))
    weight = weight if alpha == 1 else weight * np.float32(alpha)
    if isinstance(call.given(2), Value):
        raise ValueError("its bias is not a constant")
    bias = call.optional(2, "bias")
    if bias is not None:
        if bias.size not in (1, weight.shape[0]) or (bias.ndim and bias.shape[-1] != bias.size):
            raise ValueError(f"its bias has the shape {bias.shape}, its matrix {weight.shape[0]} outputs")
        bias = np.broadcast_to(bias.reshape(-1) * np.float32(beta), (weight.shape[0],))
    return _linear(call, value, weight, bias, 1)


def _einsum(call: Call) -> Value:
    """A product of two inputs: letters of both and of the result are its rows, those of both alone are summed over."""
    terms = str(call.attributes["equation"]).replace(" ", "").replace("->", ",").split(",")
    if len(terms) != 3 or len(call.inputs) != 2 or not all(term.isalpha() and len(set(term)) == len(term) for term in terms):
        raise ValueError(f"its equation is {call.attributes['equation']!r:.100}")
    one, other, result = terms
    rows = [letter for letter in result if letter in one and letter in other]
    summed = [letter for letter in one if letter in other and letter not in result]
    left, right = ([letter for letter in term if letter not in (*rows, *summed)] for term in (one, other))
    if sorted(result) != sorted((*rows, *left, *right)):
        raise ValueError(f"its equation is {call.attributes['equation']!r:.100}")
    sizes: dict[str, Size] = {}
    for place, term in enumerate((one, other)):
        given = call.given(place)
        shape = tuple(map(Size, given.constant.shape)) if isinstance(given, Known) else call.value(place).shape
        sizes |= dict(zip(term, shape, strict=True))

    def laid_out(place: int, term: str, *groups: list[str]) -> Value | Known:
        order = [term.index(letter) for group in groups for letter in group]
        shape = [*(sizes[letter] for letter in groups[0]), *(whole([sizes[each] for each in group]) for group in groups[1:])]
        given = call.given(place)
        if isinstance(given, Known):
            array = given.constant.transpose(order).reshape([size.factor for size in shape])
            return Known(array, array, given.origin)
        return reshaped(call.draft, transposed(call.value(place), order, call.hint), shape, call.hint)

    first, second = laid_out(0, one, rows, left, summed), laid_out(1, other, rows, summed, right)
    product = _matmul(replace(call, inputs=(first, second)))
    apart = reshaped(call.draft, product, [sizes[letter] for letter in (*rows, *left, *right)], call.hint)
    return transposed(apart, [(*rows, *left, *right).index(letter) for letter in result], call.hint)


def _attention(call: Call) -> Value:
    """Softmax of scaled products of queries and keys, (rows, heads, tokens, width) each, times values."""
    query, key, value = (call.value(place) for place in range(3))
    unusual = {"is_causal", "softcap", "q_num_heads", "kv_num_heads"} & {
        name for name, given in call.attributes.items() if given
    }
    if unusual or call.outputs > 1 or len(call.inputs) > 4 or any(len(each.axes) != 4 for each in (query, key, value)):
        raise ValueError(f"it has more than queries, keys, values of four axes and a mask: {sorted(unusual)}")
    scale = call.attributes.get("scale", query.shape[3].factor ** -0.5)
    turned = transposed(key, (0, 1, 3, 2), call.hint)
    scores = _matmul(replace(call, inputs=(query, turned)))
    scores = arithmetic("mul", replace(call, inputs=(scores, known(np.array(scale, np.float32)))))
    if call.given(3) is not None:
        scores = arithmetic("add", replace(call, inputs=(scores, call.given(3))))
    shares = softmax(replace(call, inputs=(scores,), attributes={"axis": -1}))
    return _matmul(replace(call, inputs=(shares, value)))


def _batch_norm(call: Call) -> Value:
    if call.attributes.get("training_mode", 0):
        raise ValueError("it is in training mode; call model.eval() before the export")
    roles = ("weight", "bias", "running_mean", "running_var")
    tensors = {role: call.constant(place, role) for place, role in enumerate(roles, 1)}
    epsilon = float(call.attributes.get("epsilon", 1e-5))
    return call.weighted("batch_norm", call.plain(), 1, tensors, epsilon=epsilon)


def _layer_norm(call: Call) -> Value:
    value, epsilon = call.plain(), float(call.attributes.get("epsilon", 1e-5))
    axis = axis_of(call.attributes.get("axis", -1), len(value.sizes))
    outer, inner = value.sizes[:axis], value.sizes[axis:]
    weight, bias = call.constant(1, "scale"), call.optional(2, "bias")
    if axis == 0 or any(each is not None and each.shape != inner for each in (weight, bias)):
        raise ValueError(f"its scale {weight.shape} does not fit the axes {inner} that it normalizes")
    tensors = {"weight": weight.reshape(-1), "bias": None if bias is None else bias.reshape(-1)}
    if len(inner) > 1:
        value = call.emit("reshape", value, shape=(*outer, math.prod(inner)))
    found = call.weighted("layer_norm", value, 1, tensors, epsilon=epsilon)
    return found if len(inner) == 1 else call.emit("reshape", found, shape=(*outer, *inner))


def _normalized(call: Call, value: Value, epsilon: float) -> Value:
    """Subtract the mean over the last axis and divide by the root of the variance and epsilon."""
    mean = partial(call.emit, "reduce_mean", axes=(len(value.sizes) - 1,), keep=1)
    centred = call.emit("sub", value, mean(value))
    least = call.fixed(np.array(epsilon, np.float32), f"{call.hint}_epsilon")
    return call.emit("div", centred, call.emit("sqrt", call.emit("add", mean(call.emit("mul", centred, centred)), least)))


def _instance_norm(call: Call) -> Value:
    value, scale, bias = call.plain(), call.constant(1, "scale"), call.constant(2, "bias")
    return _scaled_groups(call, value, value.sizes[1], scale, bias)


def _group_norm(call: Call) -> Value:
    value, groups = call.plain(), int(call.attributes["num_groups"])
    scale, bias = call.constant(1, "scale"), call.constant(2, "bias")
    if call.opset < 21:  # one number a group until then
        scale, bias = (np.repeat(each, value.sizes[1] // groups) for each in (scale, bias))
    return _scaled_groups(call, value, groups, scale, bias)


def _scaled_groups(call: Call, value: Value, groups: int, scale: Array, bias: Array) -> Value:
    rows, channels, *sizes = value.sizes
    if groups < 1 or channels % groups or scale.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(f"{groups} groups, a scale {scale.shape} and a bias {bias.shape} do not fit {channels} channels")
    grouped = call.emit("reshape", value, shape=(rows, groups, math.prod(value.sizes[1:]) // groups))
    found = call.emit("reshape", _normalized(call, grouped, float(call.attributes.get("epsilon", 1e-5))), shape=value.sizes)
    wide = (channels, *(1 for _ in sizes))
    found = call.emit("mul", found, call.fixed(scale.reshape(wide), f"{call.tensor_hint(1)}_scale"))
    return call.emit("add", found, call.fixed(bias.reshape(wide), f"{call.tensor_hint(1)}_shift"))


OPERATORS: dict[str, Read] = {
    "Conv": _conv,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Attention": _attention,
    "MaxPool": partial(_pool, "max_pool"),
    "AveragePool": partial(_pool, "average_pool"),
    "GlobalAveragePool": partial(_global_pool, "reduce_mean"),
    "GlobalMaxPool": partial(_global_pool, "reduce_max"),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    **ARITHMETIC,
    **REARRANGING,
}
"""ONNX operator → what turns it into nodes: the operators that may read a value that depends on the pixels."""
