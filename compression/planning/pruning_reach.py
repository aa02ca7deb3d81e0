"""How much of a model a cut reaches, and which axes contain the rest. Torch-free."""

from collections.abc import Iterator

from compression.models.architectures.families import ArchitectureSpec
from compression.models.architectures.shapes import Count, shape_at
from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import SHRINKING, Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import NetworkFacts

LITTLE = 0.1
"""A cut misses most of the model if it removes a share of the parameters below this multiple of its own ratio."""


def goes_past(
    family: ArchitectureSpec, shape: Shape, prune: Prune, after: Shape, count: Count, network: NetworkFacts | None = None
) -> Iterator[str]:
    """Warn of a cut to given ratios that removes almost nothing; name the axes that would remove more.

    The feed-forward units of a mixture of experts are those of its few dense layers: 55 % of them are 0.1 % of DeepSeek-V3.
    """
    if prune.has_target or "vocabulary" in prune.axes:  # a target is met or refused; the removed tokens are not known yet
        return
    before, left = count(shape), count(after)
    if not 0 < before - left < LITTLE * prune.deepest * before:
        return
    others = [axis for axis in family.axes if axis not in prune.axes]
    alone = {axis: _taken_alone(family, shape, prune, axis, count, network) for axis in others}
    wider = sorted((axis for axis, taken in alone.items() if taken >= LITTLE * prune.deepest), key=lambda axis: -alone[axis])
    named = ", ".join(f"{axis} ({alone[axis]:.0%})" for axis in wider)
    proposal = f" Name more axes in prune.ratio; at {prune.deepest:g}, each alone would take: {named}." if named else ""
    yield f"{', '.join(prune.axes)} at {prune.deepest:g} takes {1 - left / before:.2%} of the parameters.{proposal}"


def _taken_alone(
    family: ArchitectureSpec, shape: Shape, prune: Prune, axis: Axis, count: Count, network: NetworkFacts | None
) -> float:
    """Return the share of all parameters that an axis alone would remove at the deepest ratio; 0 if it cannot be cut alone."""
    together = {"hidden", "heads"} if family.coupled and axis in ("hidden", "heads") else {axis}
    alone = prune.model_copy(update={"axes": tuple(sorted(together))})
    try:
        cut = shape_at(family, shape, alone, {each: prune.deepest * (each in together) for each in SHRINKING}, network)
    except UnsupportedShape:
        return 0.0
    return 1 - count(cut) / count(shape)
