"""What can be chosen of a model: its widths and layers, what each errs by the tables, and what it costs. Torch-free.

A transformer has one width for all layers on each axis, because its stock config has; a network has a width for each group. Of
both, whole layers or blocks may go if the recipe cuts layers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, product
from math import inf, isclose
from typing import Protocol

from compression.models.architectures.families import ArchitectureSpec
from compression.models.architectures.pruning_groups import axis_and_layer, units_at
from compression.models.architectures.shapes import check_search_axes, shape_at
from compression.planning.search.problem import Choice, Limit, Picks, Term
from compression.schema.error_tables import ErrorTables, GroupErrors, LayerErrors
from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import LayerFacts, Widths

STEPS, FINE = 16, 64
"""Widths of an axis that all layers share, and in as many steps those of feed-forward units: a target leaves less than a step
over. Between the widths of the tables the error is on a straight line."""
MOST_TOGETHER = 128
"""Widths of two axes of which the one depends on the other: if 16 of each make more, eight of each are taken."""
ROUNDED = 1e-9
"""Share of a cost that is no difference."""
FEED_FORWARD: tuple[Axis, ...] = ("ffn",)
STAYS, GOES = 0, 1  #: options of a layer


@dataclass(frozen=True)
class Cost:
    """What a cut costs, whole and by layers, and the most that it may."""

    name: str
    most: float
    of_shape: Callable[[Shape], float]  #: of a transformer; its layers all cost alike
    of_layer: Callable[[LayerFacts, Widths], float]  #: of a network's layer at given widths
    fixed: float = 0.0  #: of a network, beside its layers
    key: str = ""  #: of `prune`, that sets the most
    predicted: bool = False  #: not counted


class SearchSpace(Protocol):
    """What can be chosen. A caller adds `limit` of each cost to `structure`, solves, and asks for what the picks mean."""

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return all choices."""

    @property
    def layer_choices(self) -> tuple[Choice, ...]:
        """Return those among them of whether a layer or block stays."""

    @property
    def bit_choices(self) -> tuple[Choice, ...]:
        """Return those among them of whether a layer has 8 bits or 4."""

    @property
    def uncut(self) -> Picks:
        """Return the picks that cut nothing."""

    @property
    def error(self) -> tuple[Term, ...]:
        """Return the predicted error as a sum."""

    @property
    def structure(self) -> tuple[Limit, ...]:
        """Return the limits that hold for any target."""

    def limit(self, cost: Cost) -> Limit:
        """Return a cost as a sum; one that is no sum of pairs is nearly met, so `cost_of` says what it really is."""

    def cost_of(self, cost: Cost, picks: Picks) -> float:
        """Return what picks cost."""

    def shape(self, picks: Picks) -> Shape:
        """Return the shape that picks lead to. Raises UnsupportedShape."""

    def layers(self, picks: Picks) -> tuple[int, ...]:
        """Return the numbers of the layers, or blocks, that stay."""

    def deepest(self) -> Iterator[Picks]:
        """Yield the deepest cuts: of costs that fall with every width, no cut has less than the least of these."""


class LayerSpace:
    """The choice of layers that both kinds of spaces have.

    weights: what errors count, by the key of a group or the name of a layer; a layer's also for its groups; 1 of others.
    """

    bit_choices: tuple[Choice, ...] = ()

    def __init__(self, tables: ErrorTables, prune: Prune, weights: Mapping[str, float]) -> None:
        self.tables, self.prune, self.weights = tables, prune, weights
        self.removable: tuple[LayerErrors, ...] = tables.layers if "layers" in prune.axes else ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return all choices, the whole width first among the options of each."""
        raise NotImplementedError

    @property
    def uncut(self) -> Picks:
        """Return the picks that cut nothing."""
        return {choice.name: 0 for choice in self.choices}

    @property
    def structure(self) -> tuple[Limit, ...]:
        """Return that one layer stays at least."""
        gone = tuple(Term((choice_of(layer),), (0.0, 1.0)) for layer in self.removable)
        return (Limit("removed layers", len(self.removable) - 1, gone, firm=True),) if gone else ()

    def layers(self, picks: Picks) -> tuple[int, ...]:
        """Return the numbers of the layers that stay."""
        return tuple(at for at, layer in enumerate(self.tables.layers) if picks.get(choice_of(layer), STAYS) == STAYS)

    @cached_property
    def layer_choices(self) -> tuple[Choice, ...]:
        """Return whether each layer stays."""
        return tuple(Choice(choice_of(layer), 2) for layer in self.removable)

    @cached_property
    def layer_errors(self) -> tuple[Term, ...]:
        """Return what each layer's absence errs."""
        return tuple(
            Term((choice_of(layer),), (0.0, self._weight(layer) * self.tables.without(layer))) for layer in self.removable
        )

    def single_layers(self) -> Iterator[Picks]:
        """Yield what leaves one layer, each in turn; nothing is picked if no layers go."""
        for kept in self.removable:
            yield {choice_of(layer): STAYS if layer is kept else GOES for layer in self.removable}
        if not self.removable:
            yield {}

    def homes(self, key: str) -> list[LayerErrors]:
        """Return the removable layers with which a group goes."""
        return [layer for layer in self.removable if key in layer.groups]

    def weight(self, key: str) -> float:
        """Return what a group's error counts."""
        own = self.weights.get(key)
        return own or next((self._weight(layer) for layer in self.tables.layers if key in layer.groups), 1.0)

    def layer_weight(self, number: int) -> float:
        """Return what the error of what is in a layer counts."""
        return self._weight(self.tables.layers[number]) if number < len(self.tables.layers) else 1.0

    def group_error(self, name: str, found: GroupErrors, units: Sequence[int]) -> Term:
        """Return a group's error at each option of a choice; it has none without its layer."""
        own = [self.weight(found.key) * found.at(each) for each in units]
        return present((name,), own, self.homes(found.key))

    def _weight(self, layer: LayerErrors) -> float:
        return self.weights.get(layer.name, 1.0)


def choice_of(layer: LayerErrors) -> str:
    """Return the name of the choice whether a layer stays."""
    return f"layer {layer.name}"


def present(choices: tuple[str, ...], values: Sequence[float], homes: Sequence[LayerErrors]) -> Term:
    """Return a term that is 0 as soon as one of the layers that it belongs to goes."""
    without = [0.0] * (2 ** len(homes) - 1)
    return Term((*choices, *map(choice_of, homes)), tuple(number for value in values for number in (value, *without)))


def check_tables(tables: ErrorTables, prune: Prune) -> None:
    """Refuse axes that the tables do not know. Raises UnsupportedShape."""
    known = {axis_and_layer(group.key)[0] for group in tables.groups} | ({"layers"} if tables.layers else set())
    if lacking := [axis for axis in prune.axes if axis not in {*known, "vocabulary"}]:
        cause = f"no error is known on the axis {lacking[0]}: no layer with a matrix reads its units"
        remedy = "Leave it out of prune.axes, or set prune.search to null."
        raise UnsupportedShape(cause, param="recipe.prune.search", remedy=remedy)


@dataclass(frozen=True, eq=False)
class Dimension:
    """Axes whose widths are chosen together, since the stock config does not have each with each."""

    axes: tuple[Axis, ...]
    ratios: tuple[Mapping[Axis, float], ...]  #: of each option, the whole width first
    shapes: tuple[Shape, ...]  #: with these axes alone cut

    @property
    def name(self) -> str:
        """Return the name of its choice."""
        return " and ".join(self.axes)


class UniformSpace(LayerSpace):
    """The widths of a transformer: one for all layers on each axis."""

    is_fine = True  #: whether feed-forward widths are FINE steps apart

    def __init__(
        self,
        tables: ErrorTables,
        family: ArchitectureSpec,
        whole: Shape,
        prune: Prune,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """whole: the shape before the cut, with the vocabulary that stays. Raises UnsupportedShape."""
        super().__init__(tables, prune, weights or {})
        check_tables(tables, prune)
        check_search_axes(prune, whole)
        self.family, self.whole = family, whole
        cut = [axis for axis in prune.axes if axis not in ("layers", "vocabulary")]
        tied = (family.coupled or family.divided) and {"hidden", "heads"} <= {*cut}
        sets: list[tuple[Axis, ...]] = [("hidden", "heads")] if tied else []
        sets += [(axis,) for axis in cut if not (tied and axis in ("hidden", "heads"))]
        # The stream first: what any other axis costs depends on it.
        self.dimensions = [self._dimension(axes) for axes in sorted(sets, key=lambda axes: "hidden" not in axes)]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return one choice for each axis, and whether each layer stays."""
        widths = (Choice(name, len(one.ratios)) for one in self.dimensions for name in self.names_of(one))
        return (*widths, *self.layer_choices)

    def names_of(self, one: Dimension) -> tuple[str, ...]:
        """Return the names of a dimension's choices."""
        return (one.name,)

    def name_at(self, one: Dimension, layer: int | None) -> str:  # noqa: ARG002 (of spaces in which layers differ)
        """Return the name of the choice that sets the width of a layer's group; None: of a group that all layers share."""
        return one.name

    @property
    def error(self) -> tuple[Term, ...]:
        """Return the error of each group at its axis's width, and of each layer's absence."""
        terms = []
        for one in self.dimensions:
            for group in self.tables.groups:
                axis, layer = axis_and_layer(group.key)
                if axis in one.axes:
                    units = [units_at(shape, axis, layer) for shape in one.shapes]
                    terms.append(self.group_error(self.name_at(one, layer), group, units))
        return (*terms, *self.layer_errors)

    def limit(self, cost: Cost) -> Limit:
        """Return a cost by the stream's width, the other axes' at each of its widths, pairs of these, and the layers that stay.

        Exact for a cost that is a sum over pairs of axes, as the sizes of tensors are, and that grows evenly with layers.
        """
        terms = [term for sum_ in self.sums(cost) for term in self.by_layers(*sum_)]
        fixed = sum(term.values[0] for term in terms if not term.choices)
        return Limit(cost.name, cost.most, tuple(term for term in terms if term.choices), fixed)

    def sums(self, cost: Cost) -> Iterator[tuple[tuple[str, ...], Dimension | None, Sequence["Parts"]]]:
        """Yield what `limit` adds up: the choices that parts of the cost depend on, and last on a dimension if there is one,
        and the parts at each of their options.
        """
        stream = [one for one in self.dimensions if "hidden" in one.axes]
        others = [one for one in self.dimensions if "hidden" not in one.axes]
        each_layer = self._same_each_layer(cost)

        @cache
        def at(*options: tuple[Dimension, int]) -> Parts:
            ratios = {axis: ratio for one, option in options for axis, ratio in one.ratios[option].items()}
            return self._parts(cost, ratios, each_layer=each_layer)

        def together(one: Dimension, a: int, other: Dimension, b: int) -> Parts:
            return at((one, a), (other, b)) - at((one, a)) - at((other, b)) + at()

        of_stream = [[(one, option)] for one in stream for option in range(len(one.ratios))] or [[]]
        base = [at(*taken) for taken in of_stream]
        names = tuple(one.name for one in stream)
        yield names, None, base
        for other in others:
            options = range(len(other.ratios))
            found = [
                at(*taken, (other, option)) - own for taken, own in zip(of_stream, base, strict=True) for option in options
            ]
            yield names, other, found
        for one, other in combinations(others, 2):
            last, end = len(one.ratios) - 1, len(other.ratios) - 1
            if together(one, last, other, end).matters(base[0]):  # they have a tensor together
                both = product(range(last + 1), range(end + 1))
                yield (one.name,), other, [together(one, a, other, b) for a, b in both]

    def cost_of(self, cost: Cost, picks: Picks) -> float:
        """Return what the shape of picks costs."""
        return cost.of_shape(self.shape(picks))

    def shape(self, picks: Picks) -> Shape:
        """Return the shape that picks lead to."""
        return self.shape_of(self.dimensions, picks)

    def shape_of(self, dimensions: Iterable[Dimension], picks: Picks) -> Shape:
        """Return the shape that the picks of some dimensions, and of layers, lead to."""
        ratios = {axis: ratio for one in dimensions for axis, ratio in one.ratios[picks[one.name]].items()}
        return self._at(ratios, len(self.layers(picks)) if self.removable else self.whole.layers)

    def deepest(self) -> Iterator[Picks]:
        """Yield the cuts with the narrowest of all other axes, one layer, and each width of the stream."""
        narrowest = {name: len(one.ratios) - 1 for one in self.dimensions for name in self.names_of(one)}
        narrowest |= {**next(self.single_layers())}
        stream = [one for one in self.dimensions if "hidden" in one.axes]
        widths = [{one.name: option} for one in stream for option in range(len(one.ratios))] or [{}]
        yield from ({**narrowest, **width} for width in widths)

    def by_layers(self, names: tuple[str, ...], other: Dimension | None, parts: Sequence["Parts"]) -> list[Term]:
        """Return terms of costs. names: of the choices that they depend on, and last on that of `other`, if it is given."""
        names = names if other is None else (*names, other.name)
        if not self.removable:
            return [Term(names, tuple(part.base + self.whole.layers * part.layer for part in parts))]
        base = Term(names, tuple(part.base for part in parts))
        return [base, *(present(names, [part.layer for part in parts], [layer]) for layer in self.removable)]

    def _same_each_layer(self, cost: Cost) -> bool:
        """Return whether a cost grows by the same with each layer, so that it follows from two layers, which is quicker."""
        one, two, whole = (cost.of_shape(self.whole.model_copy(update={"layers": n})) for n in (1, 2, self.whole.layers))
        return isclose(whole, one + (self.whole.layers - 1) * (two - one), rel_tol=1e-9)

    def _parts(self, cost: Cost, ratios: Mapping[Axis, float], *, each_layer: bool) -> "Parts":
        """Return what a shape costs beside its layers, and what each layer costs; infinite if the config cannot express it.

        each_layer: as `_same_each_layer` says.
        """
        many = self.whole.layers
        try:
            if not each_layer and (not self.removable or many < 2):
                return Parts(cost.of_shape(self._at(ratios, many)), 0.0)
            few = 1 if each_layer else many - 1
            less, more = (cost.of_shape(self._at(ratios, layers)) for layers in (few, few + 1))
        except UnsupportedShape:
            return Parts(inf, 0.0)
        return Parts(less - few * (more - less), more - less)

    def _at(self, ratios: Mapping[Axis, float], layers: int) -> Shape:
        cut = {axis: ratio for axis, ratio in ratios.items() if ratio}
        shape = self.whole
        if cut:
            alone = self.prune.model_copy(update={"axes": tuple(cut), "ratio": max(cut.values())})
            shape = shape_at(self.family, self.whole, alone, {**dict.fromkeys(self.prune.ratios, 0.0), **cut})
        return shape.model_copy(update={"layers": layers})

    def _dimension(self, axes: tuple[Axis, ...]) -> Dimension:
        """Return the widths of axes. Of two at one ratio, as a coupled family has them, or each with each."""
        together = len(axes) > 1 and not self.family.coupled
        for steps in (FINE if axes == FEED_FORWARD and self.is_fine else STEPS, STEPS // 2):
            shares = [step / steps for step in range(steps - max(steps // STEPS, 1) + 1)]  # a sixteenth stays
            every = product(shares, repeat=len(axes)) if together else ([share] * len(axes) for share in shares)
            found = self._shapes(dict(zip(axes, each, strict=True)) for each in every)
            if len(found) <= MOST_TOGETHER:
                break
        # In their order, as searches expect options: from the whole width to the narrowest.
        shapes = sorted(found, key=lambda shape: -shape.hidden * shape.heads) if together else [*found]
        return Dimension(axes, tuple(found[shape] for shape in shapes), tuple(shapes))

    def _shapes(self, every: Iterable[Mapping[Axis, float]]) -> dict[Shape, Mapping[Axis, float]]:
        """Return the shapes that ratios lead to, each once, without those that the config cannot express."""
        found: dict[Shape, Mapping[Axis, float]] = {}
        for ratios in every:
            with suppress(UnsupportedShape):
                found.setdefault(self._at(ratios, self.whole.layers), ratios)
        return found


@dataclass(frozen=True)
class Parts:
    """What a shape costs beside its layers, and what each layer costs; or the difference of two shapes."""

    base: float
    layer: float

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(self.base + other.base, self.layer + other.layer)

    def __sub__(self, other: "Parts") -> "Parts":
        return Parts(self.base - other.base, self.layer - other.layer)

    def matters(self, whole: "Parts") -> bool:
        """Return whether a difference is more than what numbers are rounded by."""
        return abs(self.base) > ROUNDED * abs(whole.base) or abs(self.layer) > ROUNDED * abs(whole.layer)
