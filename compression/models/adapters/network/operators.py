"""Each operator of a network's graph in torch, as `models.networks.operators` describes it."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.models.networks.graph import Node
from compression.models.networks.value_shapes import window_count

Sides = tuple[int, int, int, int]
"""Top, left, bottom, right."""
Pair = tuple[int, int]


def compute(node: Node, module: nn.Module | None, inputs: Sequence[Tensor], rows: int) -> Tensor:
    """Compute a node. module: of its tensors, if it has any (`parts.part_of`). rows: of the batch."""
    before = () if module is None else (module,)
    more = {"rows": rows} if node.op == "expand" else {}
    return TORCH[node.op](*before, *inputs, **node.attributes, **more)


def _of_module(module: nn.Module, *inputs: Tensor, **_: object) -> Tensor:
    found: Tensor = module(*inputs)
    return found


def _conv(module: nn.Module, value: Tensor, *, padding: Sides, **_: object) -> Tensor:
    # nn.Conv2d pads both sides alike.
    return _of_module(module, value if is_even(padding) else _padded(value, padding, 0.0))


def is_even(padding: Sides) -> bool:
    """Return whether a padding is the same at the top and the bottom, and at the left and the right."""
    return padding[:2] == padding[2:]


def _padded(value: Tensor, padding: Sides, fill: float) -> Tensor:
    top, left, bottom, right = padding
    return functional.pad(value, (left, right, top, bottom), value=fill)


def _pools_so(padding: Sides, kernel: Pair) -> bool:
    """Return whether torch's pools have this padding: both sides alike, and half a window at most."""
    return is_even(padding) and all(2 * side <= size for side, size in zip(padding, kernel, strict=False))


def _whole_windows(value: Tensor, span: Pair, stride: Pair, padding: Sides, ceil: int) -> Sides:
    """Return the padding with which exactly the windows that count fit: less than 0 cuts. span: of a window."""
    ends = []
    for axis in (0, 1):
        size, before = value.shape[axis + 2], padding[axis]
        count = window_count(size, span[axis], stride[axis], (before, padding[axis + 2]), ceil=bool(ceil))
        ends.append((count - 1) * stride[axis] + span[axis] - size - before)
    return (padding[0], padding[1], ends[0], ends[1])


def _max_pool(value: Tensor, *, kernel: Pair, stride: Pair, padding: Sides, ceil: int, dilation: Pair) -> Tensor:
    if _pools_so(padding, kernel):
        return functional.max_pool2d(value, kernel, stride, padding[:2], dilation, bool(ceil))
    span = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    padded = _padded(value, _whole_windows(value, span, stride, padding, ceil), -torch.inf)
    return functional.max_pool2d(padded, kernel, stride, 0, dilation)


def _average_pool(value: Tensor, *, kernel: Pair, stride: Pair, padding: Sides, ceil: int, count_padding: int) -> Tensor:
    if _pools_so(padding, kernel):
        return functional.avg_pool2d(value, kernel, stride, padding[:2], bool(ceil), bool(count_padding))
    sides = _whole_windows(value, kernel, stride, padding, ceil)
    top, left, bottom, right = sides
    # What a last window has beyond the padding never counts.
    low, far = min(bottom, padding[2]), min(right, padding[3])
    counted = _padded(value.new_ones(1, 1, *value.shape[2:]), (top, left, low, far), float(count_padding))
    padded = _padded(value, sides, 0.0), _padded(counted, (0, 0, bottom - low, right - far), 0.0)
    sums, counts = (functional.avg_pool2d(each, kernel, stride, divisor_override=1) for each in padded)
    return sums / counts


def _over(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda value, *, axes, keep: reduce(value, axes, keepdim=bool(keep))


def _slice(value: Tensor, *, axis: int, start: int, end: int, step: int) -> Tensor:
    at = [slice(None)] * value.ndim
    at[axis] = slice(start, end, step)
    return value[tuple(at)]


def _pad(given: Tensor, *, pads: Sequence[int], value: float) -> Tensor:
    # torch lists the last axis first.
    pairs = [pads[number : number + 2] for number in range(0, len(pads), 2)]
    return functional.pad(given, [side for pair in reversed(pairs) for side in pair], value=value)


def _reshape(value: Tensor, *, shape: Sequence[int]) -> Tensor:
    return value.reshape(-1, *shape[1:])


def _expand(value: Tensor, *, shape: Sequence[int], rows: int) -> Tensor:
    return value.expand(shape[0] * rows, *shape[1:])


def _resize(value: Tensor, *, size: Pair, mode: str, coordinates: str) -> Tensor:
    """Resize as ONNX defines it, one axis after the other. nearest: the lower neighbour for asymmetric coordinates, the nearer,
    and of two the lower, for the others. value: (rows, channels, height, width)
    """
    for axis, wanted in zip((2, 3), size, strict=True):
        given = value.shape[axis]
        if given == wanted:
            continue
        places = _places(given, wanted, coordinates, value.device)
        if mode == "nearest":
            nearest = places.floor() if coordinates == "asymmetric" else (places - 0.5).ceil()
            value = value.index_select(axis, nearest.clamp(0, given - 1).long())
            continue
        places = places.clamp(0, given - 1)
        below = places.floor()
        shape = [-1 if number == axis else 1 for number in range(4)]
        share = (places - below).to(value.dtype).view(shape)
        low = value.index_select(axis, below.long())
        high = value.index_select(axis, (below + 1).clamp(max=given - 1).long())
        value = low + share * (high - low)
    return value


def _places(given: int, wanted: int, coordinates: str, device: torch.device) -> Tensor:
    """Return where each of the `wanted` places of the output lies in the input. -> (wanted,), double precision"""
    out = torch.arange(wanted, dtype=torch.float64, device=device)
    if coordinates == "asymmetric":
        return out * given / wanted
    if coordinates == "align_corners":
        return out * (given - 1) / max(wanted - 1, 1)
    if coordinates == "pytorch_half_pixel" and wanted == 1:
        return out
    return (out + 0.5) * given / wanted - 0.5


TORCH: Mapping[str, Callable[..., Tensor]] = {
    "conv": _conv,
    **dict.fromkeys(("linear", "batch_norm", "layer_norm", "constant", "prelu"), _of_module),
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "matmul": torch.matmul,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "hard_swish": functional.hardswish,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "mish": functional.mish,
    "silu": functional.silu,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "neg": torch.neg,
    "abs": torch.abs,
    "clip": lambda value, *, low, high: value.clamp(low, high),
    "leaky_relu": lambda value, *, slope: functional.leaky_relu(value, slope),
    "elu": functional.elu,
    "hard_sigmoid": lambda value, *, alpha, beta: (alpha * value + beta).clamp(0, 1),
    "gelu": functional.gelu,
    "softmax": lambda value, *, axis: value.softmax(axis),
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "reduce_mean": _over(torch.mean),
    "reduce_sum": _over(torch.sum),
    "reduce_max": _over(torch.amax),
    "concat": lambda *values, axis: torch.cat(values, axis),
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": lambda value, *, order: value.permute(order),
    "expand": _expand,
    "resize": _resize,
}
"""Operator → function of its module (if it has tensors) and inputs; the attributes come by name."""
