"""The shapes of a network of images that a ratio or a target leads to, and what they cost. Torch-free.

A network's shape has the units of each group. Which residual blocks a cut takes out is known once they are scored: until then
those count that save least, so that a target is reached whichever go.
"""

from collections.abc import Callable, Mapping, Sequence
from math import gcd

from compression.models.architectures.pruning_groups import axis_and_layer
from compression.schema.errors import InvalidSpec, UnsupportedShape
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import USUAL_AXES, AxisRatios, Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import BlockFacts, GroupFacts, NetworkFacts

WIDEST_STEP, STEPS = 8, 8
"""Widths are rounded to a multiple that integer kernels like, of which a group has at least so many: a ratio stays near."""
FEWEST_UNITS = 2
"""A group of one unit would be none: what is left has the groups of the whole network, for further cuts."""
HALVINGS = 12
"""Of the interval of ratios that a target is looked for in: to within 0.0002."""


def whole_shape(network: NetworkFacts) -> Shape:
    """Return the shape of a network without a cut."""
    widths, layers = network.widths, len(network.blocks)
    hidden, heads = network.features(), _heads(widths)
    return Shape(layers=layers, hidden=hidden, heads=heads, ffn=0, vocabulary=0, widths=widths)


def axes_of(shape: Shape) -> set[str]:
    """Return the axes that a network can be cut on."""
    found = {axis_and_layer(key)[0] for key in shape.widths or {}}
    return found | {"layers"} if shape.layers else found


def own_axes(shape: Shape, prune: Prune, usual: Sequence[Axis]) -> Prune:
    """Return the settings with the axes of a network: those named; if none is, the usual ones that it has.

    Each axis of a ratio by axis stands for itself: hidden does not follow heads. A recipe that was read and sent back names the
    default axes: they count as named only if the network has them and no channels. Raises UnsupportedShape if no axis is left.
    """
    axes: Sequence[Axis] = prune.axes
    own = axes_of(shape)
    sent_back = axes == USUAL_AXES and ("channels" in own or not {*axes} <= own)
    if "axes" not in prune.model_fields_set or (sent_back and not isinstance(prune.ratio, AxisRatios)):
        axes = [axis for axis in usual if axis in own]
        if not axes:
            cause = f"the network has nothing to cut on any of the axes {', '.join(usual)}"
            others = f"Name others in prune.axes (it has {', '.join(sorted(own))}), or set" if own else "Set"
            raise UnsupportedShape(cause, param="recipe.prune", remedy=f"{others} prune to null.")
    elif isinstance(prune.ratio, AxisRatios):
        ratio = prune.ratio
        axes = [axis for axis in axes if getattr(ratio, axis) is not None]
    return prune if tuple(axes) == prune.axes else prune.model_copy(update={"axes": tuple(axes)})


def check_network_cut(shape: Shape, prune: Prune, network: NetworkFacts) -> None:
    """Refuse a cut that this network cannot have. Raises UnsupportedShape and InvalidSpec."""
    if lacking := [axis for axis in prune.axes if axis not in axes_of(shape)]:
        cause = f"the network has nothing to cut on the axis {lacking[0]}"
        has = ", ".join(sorted(axes_of(shape)))
        raise UnsupportedShape(cause, param="recipe.prune.axes", remedy=f"It has {has}." if has else "Set prune to null.")
    if prune.reconstruct:
        cause = "least squares after a cut fit the linear layers of transformers of text"
        raise InvalidSpec(cause, param="recipe.prune.reconstruct", remedy="Leave it out.")
    normalized = {key for layer in network.layers if layer.statistics for key in layer.outputs.units}
    if prune.importance == "bn_scale":
        cut = [group.key for group in network.groups if group.axis in prune.axes]
        if bare := [key for key in cut if key not in normalized]:
            cause = f"no batch normalization scales the units of {bare[0]}"
            raise InvalidSpec(cause, param="recipe.prune.importance", remedy="Choose l1_weight, l2_weight, l1, l2 or taylor.")
    if not prune.refresh_statistics and not any(layer.statistics for layer in network.layers):
        cause = "the network has no batch normalization, whose statistics a cut would change"
        raise InvalidSpec(cause, param="recipe.prune.refresh_statistics", remedy="Leave it out.")
    if prune.steps > 1 and "layers" in prune.axes:
        cause = "without a residual block a network has other groups of channels, which the scores are not of"
        raise InvalidSpec(cause, param="recipe.prune.steps", remedy="Choose 1, or leave layers out of the axes.")
    if prune.stock and not network.tied:
        cause = "the network has no config of a library that could state its widths by stage"
        raise InvalidSpec(cause, param="recipe.prune.stock", remedy="Leave it out.")


def step_of(group: GroupFacts, multiple: int) -> int:
    """Return the number that the units of a group are rounded to a multiple of.

    The largest power of two that gives at most 8 and `multiple` channels, and of which the group has at least 8.
    """
    most, step = min(WIDEST_STEP, multiple) // group.unit_size, 1
    while 2 * step <= most and 2 * step * STEPS <= group.units:
        step *= 2
    return step


def network_shape_at(shape: Shape, prune: Prune, ratios: Mapping[Axis, float], network: NetworkFacts) -> Shape:
    """Return the shape nearest to these ratios, on the recipe's axes. Raises UnsupportedShape."""
    taken = {axis: ratios.get(axis, 0.0) * (axis in prune.axes) for axis in (*prune.axes, "layers")}
    groups = {group.key: group for group in network.groups if group.key in (shape.widths or {})}
    left = {key: 1 - taken.get(group.axis, 0.0) for key, group in groups.items()}  # type: ignore[call-overload]
    widths = {key: _nearest(group, left[key], step_of(group, prune.rounding)) for key, group in groups.items()}
    if prune.stock:
        for tied in network.tied:
            widths |= _in_proportion([groups[key] for key in tied if key in groups], left, prune)
    layers = round(shape.layers * (1 - taken["layers"]))
    if shape.layers and not layers:
        cause = f"the ratio {taken['layers']:g} leaves none of {shape.layers} residual blocks"
        raise UnsupportedShape(cause, param="recipe.prune.ratio")
    return at_widths(shape.model_copy(update={"layers": layers}), widths, network)


def at_widths(shape: Shape, widths: Mapping[str, int], network: NetworkFacts) -> Shape:
    """Return a shape with these widths, and with the features and heads that follow from them."""
    return shape.model_copy(update={"widths": widths, "hidden": network.features(widths), "heads": _heads(widths)})


def _heads(widths: Mapping[str, int]) -> int:
    """Return the heads of an attention layer: the most that one has, 0 without attention."""
    return max((units for key, units in widths.items() if axis_and_layer(key)[0] == "heads"), default=0)


def _nearest(group: GroupFacts, share: float, step: int) -> int:
    """Return the units of a group nearest to a share of them: a multiple of `step`, at least 2, or all."""
    return group.units if share == 1 else min(max(round(group.units * share / step) * step, step, FEWEST_UNITS), group.units)


def _in_proportion(groups: Sequence[GroupFacts], left: Mapping[str, float], prune: Prune) -> dict[str, int]:
    """Return the widths of groups whose proportions the stock config fixes. left: share of units by key, where they are cut."""
    if len({left[group.key] for group in groups}) > 1:
        kept = next(group for group in groups if left[group.key] == max(left[each.key] for each in groups))
        other = next(group for group in groups if left[group.key] != left[kept.key])
        cause = f"the stock config gives {other.key} a fixed proportion to {kept.key}"
        remedy = f"Cut {other.axis} and {kept.axis} by one ratio, or leave prune.stock out."
        raise UnsupportedShape(cause, param="recipe.prune.stock", remedy=remedy)
    whole = gcd(*(group.units for group in groups))
    share = left[groups[0].key]
    least = min(groups, key=lambda group: group.units)
    step, part = step_of(least, prune.rounding), least.units // whole
    places = [place for place in range(1, whole) if place * part % step == 0 and place * part >= FEWEST_UNITS] + [whole]
    best = min(places, key=lambda place: (abs(place / whole - share), -place))
    return {group.key: group.units // whole * best for group in groups}


def network_parameters(network: NetworkFacts, shape: Shape) -> int:
    """Count the parameters of a network at a shape."""
    without = spared_blocks(network, shape, network.parameters)
    return network.parameters(shape.widths, without)


def multiply_adds(network: NetworkFacts, shape: Shape) -> int:
    """Count the multiply-adds of one image at a shape."""
    without = spared_blocks(network, shape, network.multiply_adds)
    return network.multiply_adds(shape.widths, without)


def spared_blocks(network: NetworkFacts, shape: Shape, cost: Callable[..., int]) -> list[str]:
    """Return the names of as many blocks as the shape lacks: those that save least."""
    gone = len(network.blocks) - shape.layers
    if gone <= 0:
        return []
    whole = cost(shape.widths)

    def saved(block: BlockFacts) -> int:
        return whole - cost(shape.widths, [block.name])

    return [block.name for block in sorted(network.blocks, key=saved)[:gone]]


def mildest(
    shape_of: Callable[[float], Shape], most: int, cost: Callable[[Shape], int], deepest: float
) -> tuple[float, float] | None:
    """Return the lowest of the ratios up to `deepest` whose shape costs at most `most`, behind one that is barely too mild;
    None if even the deepest costs more.

    shape_of: a deeper ratio's shape costs no more.
    """
    if cost(shape_of(0.0)) <= most:
        return 0.0, 0.0
    if cost(shape_of(deepest)) > most:
        return None
    low, high = 0.0, deepest
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(shape_of(middle)) <= most else (middle, high)
    return low, high


def filled(shape: Shape, milder: Shape, most: int, cost: Callable[[Shape], int], network: NetworkFacts) -> Shape:
    """Return a shape that costs at most `most`, with as much as that allows of one that costs more.

    Widths are rounded, so all groups of one size lose a step at the same ratio. Blocks come back first, then one group's width
    after another, in the network's order.
    """
    for layers in range(milder.layers, shape.layers, -1):
        if cost(more := shape.model_copy(update={"layers": layers})) <= most:
            shape = more
            break
    for key, width in (milder.widths or {}).items():
        if cost(more := at_widths(shape, {**(shape.widths or {}), key: width}, network)) <= most:
            shape = more
    return shape


def at_least(shape: Shape, end: Shape, network: NetworkFacts) -> Shape:
    """Return a shape on the way to `end`, no group of which is narrower than there."""
    ends = end.widths or {}
    widths = {key: max(width, ends.get(key, 0)) for key, width in (shape.widths or {}).items()}
    return at_widths(shape, widths, network)
