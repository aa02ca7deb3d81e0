"""Which curves `prune.sensitivity` draws of a model, and over what. Torch-free."""

from collections.abc import Collection

from compression.models.architectures.families import ArchitectureSpec
from compression.models.architectures.network_shapes import axes_of
from compression.models.architectures.pruning_groups import width_of
from compression.schema.recipe.base import Axis
from compression.schema.report.measurements import Shape

RATIOS, ROWS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 256
"""Ratios that a curve tries, and the validation rows that score it."""


def curve_axes(family: ArchitectureSpec, shape: Shape, cut: Collection[Axis] = ()) -> dict[str, tuple[Axis, ...]]:
    """Return the axes that each curve cuts, by its name: all but the vocabulary that a model of this shape can lose.

    Where heads shrink with hidden only, they have no curve and go with hidden's; not if the recipe cuts hidden without heads,
    as encoders can. cut: the recipe's axes; they change no number of curves.
    """
    has = axes_of(shape) if family.network else {axis for axis in family.axes if width_of(shape, axis)}
    found: dict[str, tuple[Axis, ...]] = {axis: (axis,) for axis in family.axes if axis in has and axis != "vocabulary"}
    if family.coupled and found.pop("heads", None) is not None and ("hidden" not in cut or "heads" in cut):
        found["hidden"] = ("hidden", "heads")
    return found
