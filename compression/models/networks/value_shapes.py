"""The shape of every value of a network, and whether its nodes fit each other.

Only a `constant` has no batch axis. It may be read where it broadcasts (arithmetic, `matmul`) or gets such an axis (`expand`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod

from compression.models.networks.graph import INPUT, Graph, Node, Shape

MOST_ELEMENTS = 1 << 28
"""Of a tensor, and of one row of a value: 1 GiB in float32."""
MOST_AXES = 8
ShapeOf = Callable[[Node, Sequence[Shape]], Shape]
"""Returns a node's shape by those of its inputs. Raises ValueError with what does not fit."""


def value_shapes(graph: Graph) -> dict[str, Shape]:
    """Return the shape of the input and of every node's value by name, the batch's factor first except in constants.

    Raises ValueError with the node's name if a node does not fit its inputs, or if a value or a tensor is too large.
    """
    shapes: dict[str, Shape] = {INPUT: (1, *graph.shape)}
    constants: set[str] = set()
    _check_size("the input", shapes[INPUT])
    for node in graph.nodes:
        try:
            shapes[node.name] = node_shape(node, shapes, constants)
        except ValueError as problem:
            raise ValueError(f"{node.name} ({node.op}): {problem}") from problem
        if node.op == "constant":
            constants.add(node.name)
    if graph.output in constants:
        raise ValueError(f"the output {graph.output} is a constant")
    return shapes


def node_shape(node: Node, shapes: Mapping[str, Shape], constants: Collection[str]) -> Shape:
    """Return the shape of one node's value by those of earlier values. constants: those without a batch axis.

    Raises ValueError with what does not fit, or is too large.
    """
    for role, shape in node.tensors.items():
        _check_size(f"its {role}", shape)
    found = _shape(node, shapes, constants)
    _check_size("its value", found)
    return found


def _shape(node: Node, shapes: Mapping[str, Shape], constants: Collection[str]) -> Shape:
    inputs = [shapes[name] for name in node.inputs]
    fixed = [name for name in node.inputs if name in constants]
    if not fixed:
        return SHAPES[node.op](node, inputs)
    if node.op not in _CONSTANTS_TOO or (len(fixed) == len(inputs) and node.op != "expand"):
        raise ValueError(f"it reads {fixed[0]}, which has no batch axis")
    if node.op == "expand":
        return _expanded_constant(node, inputs[0])
    # As numpy aligns axes from the right, a constant has the value's batch axis once it is padded with axes of size 1.
    axes = max(len(shape) for name, shape in zip(node.inputs, inputs, strict=True) if name not in constants)
    padded = [
        (1,) * (axes - len(shape)) + shape if name in constants else shape
        for name, shape in zip(node.inputs, inputs, strict=True)
    ]
    factors = [shape[0] for name, shape in zip(node.inputs, padded, strict=True) if name in constants]
    if any(len(shape) > axes for shape in padded) or factors != [1] * len(factors):
        raise ValueError(f"the constant {fixed[0]} {shapes[fixed[0]]} has another value for each row")
    batch = next(shape[0] for name, shape in zip(node.inputs, inputs, strict=True) if name not in constants)
    return SHAPES[node.op](node, [(batch, *shape[1:]) for shape in padded])


def _check_size(name: str, shape: Shape) -> None:
    if len(shape) > MOST_AXES or any(not 1 <= size <= MOST_ELEMENTS for size in shape) or prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"{name} has the shape {list(shape[: MOST_AXES + 1])}; {MOST_ELEMENTS:,} elements are the most")


def _axis(axis: int, shape: Shape) -> int:
    """Return the number of an axis that is not the batch's, counted from the left."""
    found = axis + len(shape) if axis < 0 else axis
    if not 1 <= found < len(shape):
        raise ValueError(f"the value {shape} has no axis {axis} beside the batch")
    return found


def _whole(node: Node, name: str) -> int:
    value = node.attributes[name]
    assert isinstance(value, int)  # noqa: S101 - the graph's own check
    return value


def _tuple(node: Node, name: str, length: int | None = None, least: int | None = None) -> tuple[int, ...]:
    value = node.attributes[name]
    assert isinstance(value, tuple)  # noqa: S101 - the graph's own check
    if length is not None and len(value) != length:
        raise ValueError(f"its {name} is {value}, which has not {length} numbers")
    if least is not None and any(number < least for number in value):
        raise ValueError(f"its {name} is {value}; {least} is the least")
    return value


def _same(_: Node, inputs: Sequence[Shape]) -> Shape:
    return inputs[0]


def _constant(node: Node, _: Sequence[Shape]) -> Shape:
    return node.tensors["value"]


def _map(shape: Shape) -> Shape:
    if len(shape) != 4:
        raise ValueError(f"its input has the shape {shape} and not (rows, channels, height, width)")
    return shape


def _windows(node: Node, sizes: Shape, kernel: Shape, dilation: Shape) -> Shape:
    """Return how many windows fit into a map. sizes, kernel, dilation: (height, width)"""
    stride, padding = _tuple(node, "stride", 2, 1), _tuple(node, "padding", 4, 0)
    if any(number < 1 for number in (*kernel, *dilation)):
        raise ValueError(f"its kernel is {kernel}, its dilation {dilation}")
    found = []
    for axis in (0, 1):
        sides, reach = (padding[axis], padding[axis + 2]), dilation[axis] * (kernel[axis] - 1) + 1
        if sizes[axis] + sum(sides) < reach:
            raise ValueError(f"a window of {reach} does not fit into {sizes[axis]} with the padding {padding}")
        found.append(window_count(sizes[axis], reach, stride[axis], sides, ceil=bool(node.attributes.get("ceil"))))
    return tuple(found)


def window_count(size: int, reach: int, stride: int, padding: tuple[int, int], *, ceil: bool) -> int:
    """Return how many windows fit along one axis, as ONNX Runtime and torch count. reach: what a window spans.

    ceil: whether a last window that reaches beyond the padding counts, if it begins within the map or the padding before it.
    """
    room = size + sum(padding) - reach
    count = room // stride + 1
    return count + 1 if ceil and room % stride and count * stride < size + padding[0] else count


def _conv(node: Node, inputs: Sequence[Shape]) -> Shape:
    rows, channels, *sizes = _map(inputs[0])
    weight, groups = node.tensors["weight"], _whole(node, "groups")
    if len(weight) != 4 or groups < 1 or channels != weight[1] * groups or weight[0] % groups:
        raise ValueError(f"its weight {weight} with {groups} groups does not fit {channels} channels")
    _check_widths(node, weight[0], "bias")
    return (rows, weight[0], *_windows(node, tuple(sizes), weight[2:], _tuple(node, "dilation", 2)))


def _pool(node: Node, inputs: Sequence[Shape]) -> Shape:
    rows, channels, *sizes = _map(inputs[0])
    kernel, padding = _tuple(node, "kernel", 2), _tuple(node, "padding", 4)
    dilation = _tuple(node, "dilation", 2) if "dilation" in node.attributes else (1, 1)
    if any(padding[side] >= kernel[side % 2] for side in range(4)):
        raise ValueError(f"its padding {padding} is as wide as its window {kernel}")
    return (rows, channels, *_windows(node, tuple(sizes), kernel, dilation))


def _linear(node: Node, inputs: Sequence[Shape]) -> Shape:
    weight, (*outer, width) = node.tensors["weight"], inputs[0]
    if len(weight) != 2 or weight[1] != width or not outer:
        raise ValueError(f"its weight {weight} does not fit the input {inputs[0]}")
    _check_widths(node, weight[0], "bias")
    return (*outer, weight[0])


def _batch_norm(node: Node, inputs: Sequence[Shape]) -> Shape:
    _check_widths(node, inputs[0][_axis(1, inputs[0])])
    return inputs[0]


def _layer_norm(node: Node, inputs: Sequence[Shape]) -> Shape:
    _check_widths(node, inputs[0][_axis(-1, inputs[0])])
    return inputs[0]


def _check_widths(node: Node, width: int, *roles: str) -> None:
    """Check that tensors, all if none is named, are (width,)."""
    for role in roles or tuple(node.tensors):
        if node.tensors.get(role, (width,)) != (width,):
            raise ValueError(f"its {role} has the shape {node.tensors[role]} and not {(width,)}")


def _broadcast(_: Node, inputs: Sequence[Shape]) -> Shape:
    return _joined(*inputs)


def _joined(one: Shape, other: Shape) -> Shape:
    """Broadcast two shapes with a batch axis each, which must have the same place and factor."""
    if len(one) != len(other) or one[0] != other[0]:
        raise ValueError(f"{one} and {other} do not have the same batch axis")
    if any(a != b and 1 not in (a, b) for a, b in zip(one, other, strict=True)):
        raise ValueError(f"{one} and {other} do not broadcast")
    return tuple(map(max, one, other))


def _prelu(node: Node, inputs: Sequence[Shape]) -> Shape:
    slope, inner = node.tensors["slope"], inputs[0][1:]
    if len(slope) > len(inner) or any(a not in (1, b) for a, b in zip(reversed(slope), reversed(inner), strict=False)):
        raise ValueError(f"its slope {slope} does not fit the input {inputs[0]}")
    return inputs[0]


def _softmax(node: Node, inputs: Sequence[Shape]) -> Shape:
    _axis(_whole(node, "axis"), inputs[0])
    return inputs[0]


def _reduce(node: Node, inputs: Sequence[Shape]) -> Shape:
    axes = [_axis(axis, inputs[0]) for axis in _tuple(node, "axes")]
    if not axes or len(set(axes)) != len(axes):
        raise ValueError(f"its axes are {node.attributes['axes']}")
    keep = bool(node.attributes["keep"])
    return tuple(1 if axis in axes else size for axis, size in enumerate(inputs[0]) if keep or axis not in axes)


def _concat(node: Node, inputs: Sequence[Shape]) -> Shape:
    axis = _axis(_whole(node, "axis"), inputs[0])
    first, *others = [(*shape[:axis], *shape[axis + 1 :]) for shape in inputs]
    if any(len(shape) != len(inputs[0]) for shape in inputs) or any(other != first for other in others):
        raise ValueError(f"{', '.join(map(str, inputs[:8]))} differ beside axis {axis}")
    return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])


def _slice(node: Node, inputs: Sequence[Shape]) -> Shape:
    axis = _axis(_whole(node, "axis"), inputs[0])
    start, end, step = (_whole(node, name) for name in ("start", "end", "step"))
    if not 0 <= start < end <= inputs[0][axis] or step < 1:
        raise ValueError(f"{start}:{end}:{step} is no part of {inputs[0][axis]}")
    return (*inputs[0][:axis], len(range(start, end, step)), *inputs[0][axis + 1 :])


def _pad(node: Node, inputs: Sequence[Shape]) -> Shape:
    rows, *sizes = inputs[0]
    pads = _tuple(node, "pads", 2 * len(sizes), 0)
    return (rows, *(size + pads[2 * number] + pads[2 * number + 1] for number, size in enumerate(sizes)))


def _reshape(node: Node, inputs: Sequence[Shape]) -> Shape:
    shape = _tuple(node, "shape", least=1)
    if prod(shape) != prod(inputs[0]):
        raise ValueError(f"{inputs[0]} has not as many elements as {shape}")
    return shape


def _transpose(node: Node, inputs: Sequence[Shape]) -> Shape:
    order = _tuple(node, "order")
    if sorted(order) != list(range(len(inputs[0]))) or order[0] != 0:
        raise ValueError(f"its order {order} does not permute the axes of {inputs[0]} behind the batch")
    return tuple(inputs[0][axis] for axis in order)


def _expand(node: Node, inputs: Sequence[Shape]) -> Shape:
    shape = _tuple(node, "shape", least=1)
    if _joined(inputs[0], shape) != shape:
        raise ValueError(f"{inputs[0]} does not expand to {shape}")
    return shape


def _expanded_constant(node: Node, constant: Shape) -> Shape:
    shape = _tuple(node, "shape", least=1)
    padded = (1,) * (len(shape) - len(constant)) + constant
    if len(padded) != len(shape) or padded[0] != 1 or any(a not in (1, b) for a, b in zip(padded, shape, strict=True)):
        raise ValueError(f"the constant {constant} does not expand to {shape}")
    return shape


def _resize(node: Node, inputs: Sequence[Shape]) -> Shape:
    rows, channels, *_ = _map(inputs[0])
    return (rows, channels, *_tuple(node, "size", 2, 1))


def _matmul(_: Node, inputs: Sequence[Shape]) -> Shape:
    one, other = inputs
    if len(one) != len(other) or len(one) < 3 or one[-1] != other[-2]:
        raise ValueError(f"{one} and {other} do not multiply")
    return (*_joined(one[:-2], other[:-2]), one[-2], other[-1])


_ARITHMETIC = ("add", "sub", "mul", "div", "pow", "minimum", "maximum")
_CONSTANTS_TOO = {*_ARITHMETIC, "matmul", "expand"}
_OWN: dict[str, ShapeOf] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "constant": _constant,
    **dict.fromkeys(_ARITHMETIC, _broadcast),
    "prelu": _prelu,
    "softmax": _softmax,
    **dict.fromkeys(("max_pool", "average_pool"), _pool),
    **dict.fromkeys(("reduce_mean", "reduce_sum", "reduce_max"), _reduce),
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "resize": _resize,
    "matmul": _matmul,
}
_UNCHANGED: tuple[str, ...] = (
    "relu",
    "sigmoid",
    "hard_swish",
    "tanh",
    "softplus",
    "softsign",
    "mish",
    "silu",
    "erf",
    "exp",
    "log",
    "sqrt",
)
_UNCHANGED += ("reciprocal", "neg", "abs", "clip", "leaky_relu", "elu", "hard_sigmoid", "gelu")
SHAPES: dict[str, ShapeOf] = {**_OWN, **dict.fromkeys(_UNCHANGED, _same)}
"""Operator → the shape of its value. The names are those of OPERATORS."""
