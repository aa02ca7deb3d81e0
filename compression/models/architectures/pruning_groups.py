"""Tensor dimensions that shrink together, by name, for models in memory and checkpoints on disk. Torch-free.

A family's layout (`tensor_names`, `decoder_tensor_names`) names each tensor with its shape. A dimension that a cut can shrink
is a `Width` there. All widths of one axis, in one layer or shared by all layers, form a `PruningGroup`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compression.schema.report.measurements import Shape

Tensors = dict[str, tuple[int, ...]]
"""Name → shape; dimensions that can shrink are `Width`s."""
WITHIN = {"compared": "heads", "values": "heads", "expert_ffn": "experts"}
"""Axes whose units lie within a unit of another axis; each outer unit selects its own."""


class Width(int):
    """The size of a dimension that a cut can shrink: units of `axis` in `layer` (None: shared), each of `unit_size` indices.

    The sequence of all units occurs `repeats` times, and after it come `tail` indices that always stay. `channels`: the axis of
    the indices within a unit, if a cut may select among them too.
    """

    axis: str
    layer: int | None
    units: int
    unit_size: int
    repeats: int
    channels: str | None

    def __new__(
        cls,
        units: int,
        axis: str,
        layer: int | None = None,
        *,
        unit_size: int = 1,
        repeats: int = 1,
        tail: int = 0,
        channels: str | None = None,
    ) -> "Width":
        """Create the size of `units` units."""
        found = super().__new__(cls, units * unit_size * repeats + tail)
        found.axis, found.layer, found.units = axis, layer, int(units)
        found.unit_size, found.repeats, found.channels = unit_size, repeats, channels
        return found


@dataclass(frozen=True)
class Slice:
    """One dimension of one tensor that shrinks with its group."""

    tensor: str
    dim: int
    width: Width


@dataclass(frozen=True)
class PruningGroup:
    """The smallest set of tensor dimensions that shrink together: `units` units of an axis, in one layer or (None) in all."""

    axis: str
    layer: int | None
    units: int
    members: tuple[Slice, ...]


def key_of(axis: str, layer: int | None) -> str:
    """Return the name of a group: its axis, and its layer if it has one."""
    return axis if layer is None else f"{axis}.{layer}"


def axis_and_layer(key: str) -> tuple[str, int | None]:
    """Parse a name that `key_of` returned."""
    axis, _, layer = key.partition(".")
    return axis, int(layer) if layer else None


def layer_number(module: str) -> int | None:
    """Return the number of the layer that a module of a text model is in, by its name; None of one that is in none."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), None)


def groups_of(tensors: Mapping[str, Sequence[int]]) -> dict[str, PruningGroup]:
    """Return the groups of a layout by `key_of`."""
    found: dict[tuple[str, int | None, int], list[Slice]] = {}
    for name, shape in tensors.items():
        for dim, width in enumerate(shape):
            if isinstance(width, Width):
                slice_ = Slice(name, dim, width)
                found.setdefault((width.axis, width.layer, width.units), []).append(slice_)
                if width.channels is not None:
                    found.setdefault((width.channels, width.layer, width.unit_size), []).append(slice_)
    return {
        key_of(axis, layer): PruningGroup(axis, layer, units, tuple(members)) for (axis, layer, units), members in found.items()
    }


def units_at(shape: Shape, axis: str, layer: int | None = None) -> int:
    """Return the units that a group of an axis has in a model of this shape; 0 if it has no such group.

    layer: of the group, as this model numbers it. Layers of a network of images have their own numbers of units, and of a
    transformer at most their feed-forward units; without a layer those of the widest are returned.
    """
    if shape.widths is not None and axis != "layers":
        return shape.widths.get(key_of(axis, layer), 0)
    if shape.ffns is not None and axis == "ffn" and layer is not None:
        return shape.ffns[layer]
    experts, latent, size = shape.experts, shape.latent, shape.hidden // (shape.heads or 1)
    counts = {"heads": shape.groups or shape.heads, "pooled": shape.hidden, "compared": size, "values": size}
    if experts is not None:
        counts |= {"experts": experts.count, "expert_ffn": experts.ffn, "shared": experts.shared}
    if latent is not None:
        counts |= {"query_rank": latent.query or 0, "kv_rank": latent.kv}
    return counts[axis] if axis in counts else int(getattr(shape, axis, None) or 0)


def units_left(shape: Shape, key: str, layers: Sequence[int] | None = None) -> int:
    """Return the units that a cut leaves of a group. shape: after the cut; key: the group's before it; layers: the old numbers
    of those that stay, the group's own among them; None: all.
    """
    axis, layer = axis_and_layer(key)
    if shape.ffns is not None and layers is not None and layer is not None:
        layer = layers.index(layer)
    return units_at(shape, axis, layer)


def shape_with(shape: Shape, units: Mapping[str, int], layers: Sequence[int]) -> Shape:
    """Return the shape that keeps the given units of some axes, and the given layers: the inverse of `units_at`."""
    found: dict[str, object] = {axis: units[axis] for axis in ("hidden", "ffn", "vocabulary") if axis in units}
    if "heads" in units:
        each = shape.heads // (shape.groups or shape.heads)
        found |= {"heads": units["heads"] * each, "groups": units["heads"] if shape.groups else None}
    if shape.experts is not None:
        named = {"count": "experts", "ffn": "expert_ffn", "shared": "shared"}
        inner = {name: units[axis] for name, axis in named.items() if axis in units}
        inner["dense_layers"] = sum(number < shape.experts.dense_layers for number in layers)
        found["experts"] = shape.experts.model_copy(update=inner)
    if shape.latent is not None:
        ranks = {name: units[f"{name}_rank"] for name in ("query", "kv") if f"{name}_rank" in units}
        found["latent"] = shape.latent.model_copy(update=ranks)
    return shape.model_copy(update={**found, "layers": len(layers)})


def width_of(shape: Shape, axis: str) -> int:
    """Return the width of an axis for reports: of a network the units of all its groups; the query heads for heads; of layers
    with feed-forward widths of their own the mean, rounded; else as `units_at`.
    """
    if shape.widths is not None and axis != "layers":
        return sum(units for key, units in shape.widths.items() if axis_and_layer(key)[0] == axis)
    if shape.ffns is not None and axis == "ffn":
        return round(sum(shape.ffns) / len(shape.ffns))
    return shape.heads if axis == "heads" else units_at(shape, axis)
