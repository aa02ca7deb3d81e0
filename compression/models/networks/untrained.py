"""Which constants of a network that was read from a file are no parameters of their own, as nothing in the file says."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import isqrt

import numpy as np

from compression.models.networks.graph import INPUT, Graph
from compression.models.networks.onnx_reading.constants import Array
from compression.models.networks.window_distances import distances

MASKED = -100.0
"""What masks add to a score that is not to count, or less (Liu et al. 2021, Swin)."""
SCALES = frozenset({"add", "sub", "mul", "div"})


@dataclass(frozen=True)
class Constants:
    """Constants by "node.value". fixed: those that no training changes; windows: of those that have one number for all pairs of
    a window's places that lie equally far apart, the window's height.
    """

    fixed: frozenset[str] = frozenset()
    windows: dict[str, int] = field(default_factory=dict)


def constants_of(graph: Graph, tensors: Mapping[str, Array], known: Collection[str] = ()) -> Constants:
    """Find masks, what scales the image, and tables of distances. known: constants that are known to depend on no parameter."""
    values = {node.tensor("value"): tensors[node.tensor("value")] for node in graph.nodes if node.op == "constant"}
    fixed = {*known, *_scales_of_images(graph)} & set(values)
    fixed |= {name for name, value in values.items() if _is_mask(value)}
    heights = {name: window_of(value) for name, value in values.items() if name not in fixed}
    return Constants(frozenset(fixed), {name: height for name, height in heights.items() if height is not None})


def window_of(value: Array) -> int | None:
    """Return the height of the window whose distances a value (..., places, places) has one number each of; None if of none.

    A value whose numbers are all equal has no window.
    """
    if value.ndim < 3 or value.shape[-1] != value.shape[-2]:
        return None
    height = isqrt(value.shape[-1])
    if height < 2 or height**2 != value.shape[-1] or (value == value.flat[0]).all():
        return None
    return height if np.array_equal(by_distance(value, height)[..., distances(height)], value) else None


def by_distance(value: Array, window: int) -> Array:
    """Return a number for each distance, (..., places, places) -> (..., distances); where several differ, the last of them."""
    found = np.zeros((*value.shape[:-2], (2 * window - 1) ** 2), value.dtype)
    found[..., distances(window)] = value
    return found


def _is_mask(value: Array) -> bool:
    if value.size < 2:
        return False
    lost = value <= MASKED
    return bool(lost.any() and not lost.all() and (lost | (value == 0)).all())


def _scales_of_images(graph: Graph) -> Iterator[str]:
    """Yield the constants that images are combined with before anything else is: their mean and deviation."""
    images, constants = {INPUT}, {node.name: node for node in graph.nodes if node.op == "constant"}
    for node in graph.nodes:
        own = [name for name in node.inputs if name not in images]
        if node.op in SCALES and len(own) < len(node.inputs) and all(name in constants for name in own):
            images.add(node.name)
            yield from (constants[name].tensor("value") for name in own)
