"""ONNX's operators that move numbers without computing: reshapes, slices, joins, padding, other sizes of maps."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from compression.models.networks.onnx_reading import constants
from compression.models.networks.onnx_reading.call import LARGEST, Call, Read, together
from compression.models.networks.onnx_reading.constants import ROWS, Known, axis_of
from compression.models.networks.onnx_reading.layout import Size, Value, plain, reshaped, sizes_of, transposed, whole, without

WAYS = {"asymmetric": "floor", **dict.fromkeys(("half_pixel", "pytorch_half_pixel", "align_corners"), "round_prefer_floor")}
"""Ways to find a pixel's place in the map that is resized → how a place is rounded to the nearest."""
MOST_PARTS = 64
"""Parts that a Gather is read as at most."""


def _integers(call: Call, place: int) -> list[tuple[int, ...]]:
    """Return a list of whole numbers for each of the two numbers of rows."""
    found = call.given(place)
    if not isinstance(found, Known):
        raise ValueError(f"its input {place} is not known before it runs")
    return [constants.integers(found.first), constants.integers(found.second)]


def _shapes(value: Value) -> list[tuple[int, ...]]:
    return [tuple(size.of(rows) for size in value.shape) for rows in ROWS]


def _reshape(call: Call) -> Value:
    value = call.value()
    wanted = [
        constants.reshaped(shape, sizes, call.attributes)
        for shape, sizes in zip(_shapes(value), _integers(call, 1), strict=True)
    ]
    return reshaped(call.draft, value, sizes_of(*wanted), call.hint)


def _flatten(call: Call) -> Value:
    value, axis = call.value(), call.attributes.get("axis", 1)
    axis = axis + len(value.axes) if axis < 0 else axis
    if not 0 <= axis <= len(value.axes):
        raise ValueError(f"it has no axis {axis}")
    return reshaped(call.draft, value, (whole(value.shape[:axis]), whole(value.shape[axis:])), call.hint)


def _squeeze(call: Call) -> Value:
    value, axes = call.value(), call.axes()
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(value.shape) if size == Size(1))
    return without(value, [axis_of(axis, len(value.axes)) for axis in axes])


def _unsqueeze(call: Call) -> Value:
    value, axes = call.value(), call.axes() or ()
    count = len(value.axes) + len(axes)
    places = {axis_of(axis, count) for axis in axes}
    if len(places) != len(axes) or count > 8:
        raise ValueError(f"its axes are {list(axes)}")
    groups = iter(value.axes)
    return replace(value, axes=tuple(() if place in places else next(groups) for place in range(count)))


def _transpose(call: Call) -> Value:
    value = call.value()
    return transposed(value, call.attributes.get("perm", tuple(reversed(range(len(value.axes))))), call.hint)


def _shape(call: Call) -> Known:
    part = slice(call.attributes.get("start", 0), call.attributes.get("end"))
    first, second = (np.array(shape[part], np.int64) for shape in _shapes(call.value()))
    return Known(first, second)


def _part(call: Call, value: Value, axis: int, span: range) -> Value:
    """Take a range of an ONNX axis. Raises ValueError if it takes some rows only, or nothing."""
    size = value.shape[axis]
    if span == range(size.factor) and not size.batch:
        return value
    if size.batch or not span or span.step < 1:
        raise ValueError(f"it takes {span} of an axis of {size.factor}{' × rows' if size.batch else ''}")
    if len(value.axes[axis]) != 1:
        before = plain(call.draft, value)
        if before is None:
            raise ValueError("the axis that it takes a part of is not apart from the others")
        value = before
    made = call.emit("slice", value, axis=value.axes[axis][0], start=span.start, end=span.stop, step=span.step)
    return replace(made, axes=value.axes)


def _slice(call: Call) -> Value:
    value = call.value()
    spans: list[dict[int, slice]] = []
    for side in (0, 1):
        arrays = [None if not isinstance(each, Known) else (each.first, each.second)[side] for each in call.inputs]
        wanted = constants.slices(arrays, call.attributes)
        spans.append({axis_of(axis, len(value.axes)): slice(*each) for axis, each in wanted.items()})
    for axis in spans[0]:
        first, second = (range(shape[axis])[span[axis]] for shape, span in zip(_shapes(value), spans, strict=True))
        if value.shape[axis].batch and [first, second] == [range(shape[axis]) for shape in _shapes(value)]:
            continue  # all rows
        if first != second:
            raise ValueError("what it takes depends on the number of rows")
        value = _part(call, value, axis, first)
    return value


def _split(call: Call) -> list[Value]:
    value = call.value()
    axis = axis_of(call.attributes.get("axis", 0), len(value.axes))
    if value.shape[axis].batch:
        raise ValueError("it takes rows apart")
    arrays = [None, None if call.given(1) is None else call.constant(1, "split")]
    sizes = constants.parts(value.shape[axis].factor, call.outputs, arrays, call.attributes)
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [_part(call, value, axis, range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]


def _gather(call: Call) -> Value:
    value, indices = call.value(), call.constant(1, "index")
    axis = axis_of(call.attributes.get("axis", 0), len(value.axes))
    if indices.ndim > 1 or not 1 <= indices.size <= value.shape[axis].factor:
        raise ValueError(f"its indices have the shape {indices.shape}")
    size = value.shape[axis].factor
    wanted = [int(index) + (size if index < 0 else 0) for index in indices.reshape(-1)]
    if not all(0 <= index < size for index in wanted) or value.shape[axis].batch:
        raise ValueError("its indices are those of rows, or beyond the axis")
    found = [_part(call, value, axis, span) for span in _spans(wanted)]
    if indices.ndim == 0:
        return without(found[0], [axis])
    return found[0] if len(found) == 1 else _joined(call, found, axis)


def _spans(indices: Sequence[int]) -> list[range]:
    """Return indices as few ranges. Raises ValueError if they are too many."""
    if len(indices) > 1 and (step := indices[1] - indices[0]) > 0:
        whole = range(indices[0], indices[-1] + 1, step)
        if list(whole) == list(indices):
            return [whole]
    found: list[range] = []
    for index in indices:
        if found and index == found[-1].stop:
            found[-1] = range(found[-1].start, index + 1)
        else:
            found.append(range(index, index + 1))
    if len(found) > MOST_PARTS:
        raise ValueError(f"it gathers {len(found)} parts; {MOST_PARTS} are the most")
    return found


def _concat(call: Call) -> Value:
    values = [call.value(place) for place in range(len(call.inputs))]
    if len({len(value.axes) for value in values}) != 1:
        raise ValueError("its inputs have not as many axes")
    return _joined(call, values, axis_of(call.attributes["axis"], len(values[0].axes)))


def _joined(call: Call, values: Sequence[Value], axis: int) -> Value:
    ready = together(call.draft, values)
    if ready[0].shape[axis].batch or len(ready[0].axes[axis]) != 1:
        raise ValueError("it joins rows, or an axis that is not apart from the others")
    return replace(call.emit("concat", *ready, axis=ready[0].axes[axis][0]), axes=ready[0].axes)


def _pad(call: Call) -> Value:
    value, mode = call.plain(), call.attributes.get("mode", "constant")
    count = len(value.sizes)
    pads = tuple(call.attributes["pads"]) if call.opset < 11 else constants.integers(call.constant(1, "pads"))
    axes = tuple(range(count)) if call.given(3) is None else constants.integers(call.constant(3, "axes"))
    number = float(call.attributes.get("value", 0.0)) if call.opset < 11 else call.number(2, "value", 0.0)
    if mode != "constant" or len(pads) != 2 * len(axes) or min(pads, default=0) < 0 or math.isnan(number):
        raise ValueError(f"its mode is {mode!r:.60}, its pads {list(pads[:16])}, its value {number}")
    number = min(max(number, -LARGEST), LARGEST)  # infinite numbers have no place in JSON
    before, after = [0] * count, [0] * count
    for place, axis in enumerate(axes):
        before[axis_of(axis, count)], after[axis_of(axis, count)] = pads[place], pads[place + len(axes)]
    if before[0] or after[0]:
        raise ValueError("it adds rows")
    if not any((*before, *after)):
        return value
    return call.emit(
        "pad", value, pads=tuple(each for pair in zip(before[1:], after[1:], strict=True) for each in pair), value=number
    )


def _expand(call: Call) -> Value:
    value = call.value()
    shapes = [tuple(np.broadcast_shapes(shape, sizes)) for shape, sizes in zip(_shapes(value), _integers(call, 1), strict=True)]
    sizes = sizes_of(*shapes)
    value = replace(value, axes=((),) * (len(sizes) - len(value.axes)) + value.axes)
    if value.shape == sizes:
        return value
    before = together(call.draft, [value])[0]
    wanted = list(before.sizes)
    for size, group in zip(sizes, before.axes, strict=True):
        if len(group) != 1:
            raise ValueError("an axis that it repeats is not apart from the others")
        wanted[group[0]] = size.factor
    return replace(call.emit("expand", before, shape=tuple(wanted)), axes=before.axes)


def _resize(call: Call) -> Value:
    value = call.plain()
    if len(value.sizes) != 4:
        raise ValueError(f"its input has {len(value.sizes)} axes and not four")
    sizes = _resized(call, value)
    mode = call.attributes.get("mode", "nearest")
    way = call.attributes.get("coordinate_transformation_mode", "asymmetric" if call.opset < 11 else "half_pixel")
    if call.attributes.get("antialias", 0) or call.attributes.get("exclude_outside", 0) or "axes" in call.attributes:
        raise ValueError("it has antialias, exclude_outside or axes")
    if mode == "linear" and way in WAYS:
        return call.emit("resize", value, size=sizes, mode=mode, coordinates=way)
    rounding = call.attributes.get("nearest_mode", "floor" if call.opset < 11 else "round_prefer_floor")
    if rounding == "round_prefer_ceil" and all(new % old == 0 for new, old in zip(sizes, value.sizes[2:], strict=True)):
        rounding = "round_prefer_floor"  # there is no tie where each pixel is repeated
    if mode != "nearest" or WAYS.get(way) != rounding:
        raise ValueError(f"its mode is {mode!r:.60}, {way!r:.60}, {rounding!r:.60}")
    return call.emit("resize", value, size=sizes, mode=mode, coordinates=way)


def _resized(call: Call, value: Value) -> tuple[int, ...]:
    """Return the new height and width."""
    old, place = value.sizes, (1 if call.opset < 11 or call.op == "Upsample" else 2)
    if call.given(3) is not None:
        first, second = _integers(call, 3)
        new = sizes_of(first, second)
        if new[:2] != value.shape[:2] or call.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise ValueError("it changes rows or channels, or keeps the ratio of height and width")
        return tuple(size.factor for size in new[2:])
    scales = call.constant(place, "scales").reshape(-1)
    if scales.size != 4 or scales[0] != 1 or scales[1] != 1 or not all(0 < scale < 1e4 for scale in scales):
        raise ValueError(f"its scales are {scales[:8].tolist()}")
    found = [size * float(scale) for size, scale in zip(old[2:], scales[2:], strict=True)]
    if any(abs(size - round(size)) > 1e-3 for size in found):
        raise ValueError(f"its scales {scales.tolist()} give no whole sizes of {old[2:]}")
    return tuple(round(size) for size in found)


def _depth_to_space(call: Call) -> Value:
    value, block = call.plain(), int(call.attributes["blocksize"])
    rows, channels, height, width = value.sizes
    if block < 1 or channels % block**2:
        raise ValueError(f"its blocks of {block} do not fit {channels} channels")
    inner = channels // block**2
    first = call.attributes.get("mode", "DCR") == "DCR"
    shape = (rows, block, block, inner, height, width) if first else (rows, inner, block, block, height, width)
    order = (0, 3, 4, 1, 5, 2) if first else (0, 1, 4, 2, 5, 3)
    apart = call.emit("reshape", value, shape=shape)
    turned = transposed(apart, order, call.hint)
    return reshaped(call.draft, turned, _maps(rows, inner, height * block, width * block), call.hint)


def _space_to_depth(call: Call) -> Value:
    value, block = call.plain(), int(call.attributes["blocksize"])
    rows, channels, height, width = value.sizes
    if block < 1 or height % block or width % block:
        raise ValueError(f"its blocks of {block} do not fit maps of {height} × {width}")
    shape = (rows, channels, height // block, block, width // block, block)
    apart = call.emit("reshape", value, shape=shape)
    turned = transposed(apart, (0, 3, 5, 1, 2, 4), call.hint)
    return reshaped(call.draft, turned, _maps(rows, channels * block**2, height // block, width // block), call.hint)


def _maps(rows: int, *sizes: int) -> tuple[Size, ...]:
    return (Size(rows, batch=True), *map(Size, sizes))


def _same(call: Call) -> Value:
    return call.value()


def _cast(call: Call) -> Value:
    to = call.attributes["to"]
    if to != onnx.TensorProto.FLOAT:
        raise ValueError(f"it turns the network's numbers into {constants.type_name(to)}; export a network of float32")
    return call.value()


def _cast_like(call: Call) -> Value | Known:
    one, like = call.given(0), call.given(1)
    if isinstance(one, Known):
        return Known(one.first.astype(np.float32), one.second.astype(np.float32), one.origin)
    if isinstance(like, Known) and like.first.dtype != np.float32:
        raise ValueError(f"it turns the network's numbers into {like.first.dtype}; export a network of float32")
    return call.value()


def _size(call: Call) -> Known:
    first, second = (np.array(math.prod(shape), np.int64) for shape in _shapes(call.value()))
    return Known(first, second)


def _tile(call: Call) -> Value:
    if set(call.constant(1, "repeats").reshape(-1).tolist()) - {1}:
        raise ValueError("it repeats a value")
    return call.value()


REARRANGING: dict[str, Read] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Concat": _concat,
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _cast,
    "CastLike": _cast_like,
}
