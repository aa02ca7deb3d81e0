"""How each operator passes, joins and makes channels: the rules that the groups of a graph are derived by.

A rule returns the labels of a node's value. It joins labels that have to go together, and has those stay that it does not
know how to cut.
"""

import math
from collections.abc import Callable

import numpy as np

from compression.models.networks.channel_labels import Labels, Shape, compressed, cut_axes, on_axis, reshaping, uncut
from compression.models.networks.channel_trace import Trace
from compression.models.networks.graph import Node

Rule = Callable[[Trace, Node], Labels]


def _given(trace: Trace, node: Node) -> Labels:
    return trace.labels[node.inputs[0]]


def ints_of(node: Node, name: str) -> tuple[int, ...]:
    """Return an attribute of whole numbers."""
    value = node.attributes[name]
    assert isinstance(value, tuple)  # noqa: S101 - the graph's own check
    return value


def int_of(node: Node, name: str) -> int:
    """Return an attribute that is a whole number."""
    value = node.attributes[name]
    assert isinstance(value, int)  # noqa: S101 - the graph's own check
    return value


def _pass(trace: Trace, node: Node) -> Labels:
    return _given(trace, node)


def _conv(trace: Trace, node: Node) -> Labels:
    read, groups, outputs = trace.channels(_given(trace, node), 1), int_of(node, "groups"), node.tensors["weight"][0]
    if groups == 1:
        trace.add_tensor(node.tensor("weight"), 1, read)
        made = trace.made(node, outputs)
    elif read is None:
        return uncut(4)
    else:
        # Whole groups go: then all that stay have as many inputs, and as many outputs, as before.
        each = read.reshape(groups, -1)
        trace.join(each[:, :1], each)
        made = each[:, 0].repeat(outputs // groups)
    for role in node.tensors:
        trace.add_tensor(node.tensor(role), 0, made)
    return on_axis(made, 1, 4)


def _linear(trace: Trace, node: Node) -> Labels:
    given = _given(trace, node)
    trace.add_tensor(node.tensor("weight"), 1, trace.channels(given, given.ndim - 1))
    made = trace.made(node, node.tensors["weight"][0])
    for role in node.tensors:
        trace.add_tensor(node.tensor(role), 0, made)
    return on_axis(made, given.ndim - 1, given.ndim)


def _batch_norm(trace: Trace, node: Node) -> Labels:
    given = _given(trace, node)
    for role in node.tensors:
        trace.add_tensor(node.tensor(role), 0, given, 1)
    return given


def _layer_norm(trace: Trace, node: Node) -> Labels:
    given = _given(trace, node)
    for role in node.tensors:
        trace.add_tensor(node.tensor(role), 0, given, given.ndim - 1)
    trace.normalized.append((given, given.ndim - 1))
    return given


def _constant(trace: Trace, node: Node) -> Labels:
    trace.constants.add(node.name)
    return uncut(len(node.tensors["value"]))


def _arithmetic(trace: Trace, node: Node) -> Labels:
    fixed = [name for name in node.inputs if name in trace.constants]
    if fixed:
        (given,) = (trace.labels[name] for name in node.inputs if name not in trace.constants)
        trace.add_constant(fixed[0], given)
        return given
    shapes = [trace.shapes[name] for name in node.inputs]
    one, other = (trace.labels[name] for name in node.inputs)
    found = trace.meet([(one, shapes[0]), (other, shapes[1])])
    if node.op == "add" and shapes[0] == shapes[1] and cut_axes(found) and not np.array_equal(one, other):
        trace.streams.append(found)
    return found


def _prelu(trace: Trace, node: Node) -> Labels:
    given, slope = _given(trace, node), node.tensors["slope"]
    for dim, size in enumerate(slope):
        if size > 1:
            trace.add_tensor(node.tensor("slope"), dim, given, given.ndim - len(slope) + dim)
    return given


def _softmax(trace: Trace, node: Node) -> Labels:
    given = _given(trace, node)
    return trace.without(given, [int_of(node, "axis") % given.ndim])


def _pool(trace: Trace, node: Node) -> Labels:
    return trace.without(_given(trace, node), [2, 3])


def _reduce(trace: Trace, node: Node) -> Labels:
    given = _given(trace, node)
    axes = [axis % given.ndim for axis in ints_of(node, "axes")]
    found = trace.without(given, axes)
    return found if node.attributes["keep"] else found.squeeze(tuple(axes))


def _sum(trace: Trace, node: Node) -> Labels:
    """Sum channels one by one, as a layer does: what goes is none of the sum."""
    given, axes = _given(trace, node), [axis % _given(trace, node).ndim for axis in ints_of(node, "axes")]
    cut = set(cut_axes(given))
    if not cut or not cut <= set(axes):
        return _reduce(trace, node)
    return uncut(given.ndim if node.attributes["keep"] else given.ndim - len(axes))


def _concat(trace: Trace, node: Node) -> Labels:
    parts, shapes = [trace.labels[name] for name in node.inputs], [trace.shapes[name] for name in node.inputs]
    axis = int_of(node, "axis") % parts[0].ndim
    if all(part.shape[axis] == 1 for part in parts):
        return trace.meet([(part, _replaced(shape, axis, 1)) for part, shape in zip(parts, shapes, strict=True)])
    across = np.broadcast_shapes(*(_replaced(part.shape, axis, 1) for part in parts))
    full = [np.broadcast_to(part, _replaced(across, axis, shape[axis])) for part, shape in zip(parts, shapes, strict=True)]
    trace.spend(sum(part.size for part in full))
    return np.concatenate(full, axis)


def _replaced(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _slice(trace: Trace, node: Node) -> Labels:
    given, axis = _given(trace, node), int_of(node, "axis")
    axis %= given.ndim
    if given.shape[axis] == 1:
        return given
    if node.attributes["step"] != 1:
        trace.stay(given)
        return uncut(given.ndim)
    return given.take(range(int_of(node, "start"), int_of(node, "end")), axis)


def _pad(trace: Trace, node: Node) -> Labels:
    given, pads = _given(trace, node), ints_of(node, "pads")
    sides = [(0, 0), *((pads[2 * number], pads[2 * number + 1]) for number in range(given.ndim - 1))]
    sides = [side if size > 1 else (0, 0) for side, size in zip(sides, given.shape, strict=True)]
    trace.spend(math.prod(size + sum(side) for side, size in zip(sides, given.shape, strict=True)))
    return np.pad(given, sides)


def _reshape(trace: Trace, node: Node) -> Labels:
    full, target = reshaping(given := _given(trace, node), trace.shapes[node.inputs[0]], ints_of(node, "shape"))
    trace.spend(math.prod(full))
    return compressed(np.broadcast_to(given, full).reshape(target))


def _transpose(trace: Trace, node: Node) -> Labels:
    return _given(trace, node).transpose(ints_of(node, "order"))


def _expand(trace: Trace, node: Node) -> Labels:
    if node.inputs[0] not in trace.constants:
        return _given(trace, node)
    shape = trace.shapes[node.inputs[0]]
    axes = len(ints_of(node, "shape"))
    made = trace.made(node, math.prod(shape)).reshape((1,) * (axes - len(shape)) + shape)
    trace.add_constant(node.inputs[0], made)
    return made


def _matmul(trace: Trace, node: Node) -> Labels:
    """Join what is multiplied: channels that are summed over one by one, or whole those of each head."""
    axes = len(trace.shapes[node.name])
    one, other = ((1,) * (axes - len(trace.shapes[name])) + trace.shapes[name] for name in node.inputs)
    rows, columns = (uncut(axes) if name in trace.constants else trace.labels[name] for name in node.inputs)
    columns = columns.swapaxes(-1, -2)
    if rows.shape[-1] != columns.shape[-1]:  # one of them cannot be cut there
        rows, columns = (trace.held(side) if side.shape[-1] > 1 else side for side in (rows, columns))
    elif len(cut_axes(rows)) == len(cut_axes(columns)) == 1 and rows.shape[-1] > 1:
        trace.join(rows, columns)
        rows = columns = uncut(axes)
    else:
        rows, columns = (trace.without(side, [axes - 1]) for side in (rows, columns))
    found = trace.meet([(rows, (*one[:-1], 1)), (columns.swapaxes(-1, -2), (*other[:-2], 1, other[-1]))])
    if any(axis < axes - 2 for axis in cut_axes(found)):
        trace.heads.append(found)
    return found


_OWN: dict[str, Rule] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "constant": _constant,
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "minimum", "maximum"), _arithmetic),
    "prelu": _prelu,
    "softmax": _softmax,
    **dict.fromkeys(("max_pool", "average_pool", "resize"), _pool),
    **dict.fromkeys(("reduce_mean", "reduce_max"), _reduce),
    "reduce_sum": _sum,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "matmul": _matmul,
}
_UNCHANGED: tuple[str, ...] = ("relu", "sigmoid", "hard_swish", "tanh", "softplus", "softsign", "mish", "silu", "erf", "exp")
_UNCHANGED += ("log", "sqrt", "reciprocal", "neg", "abs", "clip", "leaky_relu", "elu", "hard_sigmoid", "gelu")
RULES: dict[str, Rule] = {**_OWN, **dict.fromkeys(_UNCHANGED, _pass)}
"""Operator → labels of its value. The names are those of OPERATORS."""
