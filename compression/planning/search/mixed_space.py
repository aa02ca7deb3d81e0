"""Bits of the layers of a text model beside its widths: each layer has 8 or 4, and costs and errs accordingly. Torch-free."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from math import prod

from compression.models.architectures.pruning_groups import layer_number
from compression.planning.search.problem import Choice, Limit, Picks, Term
from compression.planning.search.space import Cost, UniformSpace, present
from compression.schema.error_tables import LayerErrors
from compression.schema.errors import UnsupportedShape
from compression.schema.report.measurements import Shape

MOST_NUMBERS = 20_000_000
"""Of widths, layers that go and layers in 8 bits: the solver has a number of 8 bytes for each of their combinations."""
EIGHT, FOUR = 0, 1  #: options of a layer's bits, the finer first, as whole widths are
OF_BITS = ("weight-only-int8", "weight-only-int4")
"""The schemes of both options."""


class MixedSpace:
    """A space of widths, with a choice of bits for each layer."""

    def __init__(self, widths: UniformSpace) -> None:
        """Raises UnsupportedShape if there is more to choose from than can be gone through."""
        self.widths = widths
        self._more: dict[str, tuple[Callable[[Shape], float], tuple[Term, ...]]] = {}
        layers = len(self.layer_choices)
        sizes = (choice.options for choice in widths.choices[: len(widths.choices) - layers])
        if prod(sizes) * (layers + 1) * (widths.whole.layers + 1) > MOST_NUMBERS:
            cause = f"widths, layers that go and bits of {widths.whole.layers} layers are too many to be chosen together"
            remedy = "Leave layers out of prune.axes, or leave prune.mixed_bits out."
            raise UnsupportedShape(cause, param="recipe.prune.mixed_bits", remedy=remedy)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return the choices of widths and layers, and last those of bits."""
        return (*self.widths.choices, *self.bit_choices)

    @property
    def layer_choices(self) -> tuple[Choice, ...]:
        """Return whether each layer stays."""
        return self.widths.layer_choices

    @cached_property
    def bit_choices(self) -> tuple[Choice, ...]:
        """Return the bits of each layer."""
        return tuple(Choice(_name(number), 2) for number in range(self.widths.whole.layers))

    @property
    def uncut(self) -> Picks:
        """Return the picks that cut nothing, in the scheme's own bits."""
        return {**self.widths.uncut, **dict.fromkeys((choice.name for choice in self.bit_choices), FOUR)}

    @property
    def error(self) -> tuple[Term, ...]:
        """Return the errors of widths, and what the linear layers in each layer err in either number of bits."""
        sums: dict[int | None, list[float]] = {number: [0.0, 0.0] for number in range(self.widths.whole.layers)}
        for one in self.widths.tables.integers:
            number = layer_number(one.layer)
            if number in sums:
                for option, scheme in enumerate(OF_BITS):
                    sums[number][option] += one.schemes.get(scheme, 0.0)
        terms = []
        for number in range(self.widths.whole.layers):
            counted = [self.widths.layer_weight(number) * error for error in sums[number]]
            terms.append(present((_name(number),), counted, self._home(number)))
        return (*self.widths.error, *terms)

    @property
    def structure(self) -> tuple[Limit, ...]:
        """Return the limits that hold for any target."""
        return self.widths.structure

    def limit(self, cost: Cost) -> Limit:
        """Return a cost as a sum, with what each layer costs more in 8 bits at the widths on which that depends."""
        plain = self.widths.limit(cost)
        known = self._more.get(cost.name)
        if known is None or known[0] is not cost.of_shape:
            known = self._more[cost.name] = (cost.of_shape, tuple(self._in_eight_bits(cost)))
        return replace(plain, terms=(*plain.terms, *known[1]))

    def cost_of(self, cost: Cost, picks: Picks) -> float:
        """Return what the shape of picks costs."""
        return cost.of_shape(self.shape(picks))

    def shape(self, picks: Picks) -> Shape:
        """Return the shape that picks lead to, with the numbers that layers of 8 bits have then. Raises UnsupportedShape."""
        stay = self.layers(picks) if self.layer_choices else range(self.widths.whole.layers)
        finer = tuple(at for at, number in enumerate(stay) if picks[_name(number)] == EIGHT)
        return self.widths.shape(picks).model_copy(update={"eight_bits": finer})

    def layers(self, picks: Picks) -> tuple[int, ...]:
        """Return the numbers of the layers that stay."""
        return self.widths.layers(picks)

    def deepest(self) -> Iterator[Picks]:
        """Yield the deepest cuts, all layers in 4 bits."""
        fewest = dict.fromkeys((choice.name for choice in self.bit_choices), FOUR)
        yield from ({**picks, **fewest} for picks in self.widths.deepest())

    def _in_eight_bits(self, cost: Cost) -> Iterator[Term]:
        """Yield what each layer costs more in 8 bits, if anything."""
        more = replace(cost, of_shape=lambda shape: cost.of_shape(_finer(shape)) - cost.of_shape(shape))
        for names, other, parts in self.widths.sums(more):
            if any(part.layer for part in parts):
                places = names if other is None else (*names, other.name)
                values = [value for part in parts for value in (part.layer, 0.0)]
                own = ((_name(number), self._home(number)) for number in range(self.widths.whole.layers))
                yield from (present((*places, bits), values, home) for bits, home in own)

    def _home(self, number: int) -> list[LayerErrors]:
        return [self.widths.removable[number]] if self.widths.removable else []


def _name(layer: int) -> str:
    return f"bits {layer}"


def _finer(shape: Shape) -> Shape:
    return shape.model_copy(update={"eight_bits": tuple(range(shape.layers))})
