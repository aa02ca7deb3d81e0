"""Bits of the layers of a text model beside its widths: each layer has 8 or 4, and costs and errs accordingly. Torch-free."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from compression.models.architectures.pruning_groups import layer_number
from compression.planning.search.problem import Choice, Limit, Picks, Term
from compression.planning.search.space import Cost, UniformSpace, present
from compression.schema.error_tables import LayerErrors
from compression.schema.report.measurements import Shape

EIGHT, FOUR = 0, 1  #: options of a layer's bits, the finer first, as whole widths are
OF_BITS = ("weight-only-int8", "weight-only-int4")
"""The schemes of both options."""


class MixedSpace:
    """A space of widths, with a choice of bits for each layer."""

    def __init__(self, widths: UniformSpace) -> None:
        self.widths = widths

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
    def error(self) -> tuple[Term, ...]:
        """Return the errors of widths, and what the linear layers in each layer err in either number of bits."""
        sums = [[0.0, 0.0] for _ in self.bit_choices]
        for one in self.widths.tables.integers:
            if (number := layer_number(one.layer)) is not None:
                for option, scheme in enumerate(OF_BITS):
                    sums[number][option] += one.schemes.get(scheme, 0.0)
        counted = ([self.widths.layer_weight(number) * error for error in own] for number, own in enumerate(sums))
        terms = (present((_name(number),), own, self._home(number)) for number, own in enumerate(counted))
        return (*self.widths.error, *terms)

    @property
    def structure(self) -> tuple[Limit, ...]:
        """Return the limits that hold for any target."""
        return self.widths.structure

    def limit(self, cost: Cost) -> Limit:
        """Return a cost as a sum, with what each layer costs more in 8 bits at the widths on which that depends."""
        plain = self.widths.limit(cost)
        more = replace(cost, of_shape=lambda shape: cost.of_shape(_in_eight(shape)) - cost.of_shape(shape))
        terms = list(plain.terms)
        for names, other, parts in self.widths.sums(more):
            if any(part.layer for part in parts):
                names = names if other is None else (*names, other.name)
                values = [value for part in parts for value in (part.layer, 0.0)]
                own = ((_name(number), self._home(number)) for number in range(self.widths.whole.layers))
                terms += (present((*names, bits), values, home) for bits, home in own)
        return replace(plain, terms=tuple(terms))

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

    def _home(self, number: int) -> list[LayerErrors]:
        return [self.widths.removable[number]] if self.widths.removable else []


def _name(layer: int) -> str:
    return f"bits {layer}"


def _in_eight(shape: Shape) -> Shape:
    return shape.model_copy(update={"eight_bits": tuple(range(shape.layers))})
