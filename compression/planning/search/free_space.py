"""Widths of a transformer whose layers each have feed-forward units of their own; its other axes have one width.

A layer's units cost by the stream's width and their own number alone, so every cost that is a sum over layers stays an exact
sum. Torch-free.
"""

from collections.abc import Sequence
from math import inf

from compression.planning.search.problem import Picks, Term
from compression.planning.search.space import Dimension, Parts, UniformSpace, present
from compression.schema.recipe.base import Axis
from compression.schema.report.measurements import Shape

FREE: tuple[Axis, ...] = ("ffn",)
"""The axes of the dimension that each layer chooses for itself."""


class FreeSpace(UniformSpace):
    """The widths of an encoder, with a choice of feed-forward units for each layer."""

    is_fine = False  # many layers of few widths each come as near to a target

    def names_of(self, one: Dimension) -> tuple[str, ...]:
        """Return the names of a dimension's choices: of the free one by layers."""
        return tuple(_name(number) for number in range(self.whole.layers)) if one.axes == FREE else super().names_of(one)

    def name_at(self, one: Dimension, layer: int | None) -> str:
        """Return the name of the choice that sets the width of a layer's group."""
        return super().name_at(one, layer) if one.axes != FREE or layer is None else _name(layer)

    def by_layers(self, names: tuple[str, ...], other: Dimension | None, parts: Sequence[Parts]) -> list[Term]:
        """Return terms of costs; what the free dimension costs is each layer's own, and nothing of it is beside the layers."""
        if other is None or other.axes != FREE:
            return super().by_layers(names, other, parts)
        each = [part.layer if part.base < inf else inf for part in parts]
        homes = [[layer] for layer in self.removable] or [[]] * self.whole.layers
        return [present((*names, _name(number)), each, own) for number, own in enumerate(homes)]

    def shape(self, picks: Picks) -> Shape:
        """Return the shape that picks lead to, with the units of each layer that stays."""
        free = next(one for one in self.dimensions if one.axes == FREE)
        found = self.shape_of([one for one in self.dimensions if one is not free], picks)
        layers = self.layers(picks) if self.removable else range(self.whole.layers)
        return found.with_ffns([free.shapes[picks[_name(number)]].ffn for number in layers])


def _name(layer: int) -> str:
    return f"{FREE[0]}.{layer}"
