"""What can be chosen of a model: its widths and layers, what each errs by the tables, and what it costs. Torch-free.

A transformer has one width for all layers on each axis, because its stock config has; a network has a width for each group. Of
both, whole layers or blocks may go if the recipe cuts layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Protocol

from compression.models.architectures.families import ArchitectureSpec
from compression.models.architectures.pruning_groups import axis_and_layer, units_at
from compression.models.architectures.shapes import shape_at
from compression.planning.search.problem import Choice, Limit, Picks, Term
from compression.schema.error_tables import ErrorTables, GroupErrors, LayerErrors
from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import LayerFacts, Widths

STEPS = 16
"""Widths of an axis that all layers share; between those of the tables the error is on a straight line."""
STAYS, GOES = 0, 1  #: options of a layer


@dataclass(frozen=True)
class Cost:
    """What a cut costs, whole and by layers, and the most that it may."""

    name: str
    most: float
    of_shape: Callable[[Shape], float]  #: of a transformer; its layers all cost alike
    of_layer: Callable[[LayerFacts, Widths], float]  #: of a network's layer at given widths
    fixed: float = 0.0  #: of a network, beside its layers


class SearchSpace(Protocol):
    """What can be chosen. A caller adds `limit` of each cost to `structure`, solves, and asks for what the picks mean."""

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return all choices."""

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


class LayerSpace:
    """The choice of layers that both kinds of spaces have.

    weights: what errors count, by the key of a group or the name of a layer; a layer's also for its groups; 1 of others.
    """

    def __init__(self, tables: ErrorTables, prune: Prune, weights: Mapping[str, float]) -> None:
        self.tables, self.prune, self.weights = tables, prune, weights
        self.removable: tuple[LayerErrors, ...] = tables.layers if "layers" in prune.axes else ()

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

    def homes(self, key: str) -> list[LayerErrors]:
        """Return the removable layers with which a group goes."""
        return [layer for layer in self.removable if key in layer.groups]

    def weight(self, key: str) -> float:
        """Return what a group's error counts."""
        own = self.weights.get(key)
        return own or next((self._weight(layer) for layer in self.tables.layers if key in layer.groups), 1.0)

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


@dataclass(frozen=True)
class _Dimension:
    """Axes that shrink together, at the same ratio."""

    axes: tuple[Axis, ...]
    ratios: tuple[float, ...]
    shapes: tuple[Shape, ...]  #: with these axes alone cut

    @property
    def name(self) -> str:
        return " and ".join(self.axes)


class UniformSpace(LayerSpace):
    """The widths of a transformer: one for all layers on each axis."""

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
        self.family, self.whole = family, whole
        if self.removable and whole.experts is not None:
            cause = "layers of a mixture of experts cost differently, which the solver does not count"
            raise UnsupportedShape(cause, param="recipe.prune.axes", remedy="Leave layers out of prune.axes.")
        cut = [axis for axis in prune.axes if axis not in ("layers", "vocabulary")]
        coupled = family.coupled and {"hidden", "heads"} <= {*cut}
        sets: list[tuple[Axis, ...]] = [("hidden", "heads")] if coupled else []
        sets += [(axis,) for axis in cut if not (coupled and axis in ("hidden", "heads"))]
        # The stream first: what any other axis costs depends on it.
        self.dimensions = [self._dimension(axes) for axes in sorted(sets, key=lambda axes: "hidden" not in axes)]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return one choice for each axis, and whether each layer stays."""
        return (*(Choice(one.name, len(one.ratios)) for one in self.dimensions), *self.layer_choices)

    @property
    def error(self) -> tuple[Term, ...]:
        """Return the error of each group at its axis's width, and of each layer's absence."""
        terms = []
        for one in self.dimensions:
            for group in self.tables.groups:
                axis, layer = axis_and_layer(group.key)
                if axis in one.axes:
                    units = [units_at(shape, axis, layer) for shape in one.shapes]
                    terms.append(self.group_error(one.name, group, units))
        return (*terms, *self.layer_errors)

    def limit(self, cost: Cost) -> Limit:
        """Return a cost by the stream's width, the other axes' at each of its widths, and the layers that stay."""
        stream = [one for one in self.dimensions if "hidden" in one.axes]
        others = [one for one in self.dimensions if "hidden" not in one.axes]
        widths = range(len(stream[0].ratios)) if stream else range(1)
        names = tuple(one.name for one in stream)

        def at(number: int, other: _Dimension | None = None, option: int = 0) -> tuple[float, float]:
            ratios = dict.fromkeys(stream[0].axes, stream[0].ratios[number]) if stream else {}
            if other is not None:
                ratios |= dict.fromkeys(other.axes, other.ratios[option])
            return self._parts(cost, ratios)

        base = [at(number) for number in widths]
        terms = self._by_layers(names, base) if names else []
        for other in others:
            found = [
                (part[0] - base[number][0], part[1] - base[number][1])
                for number in widths
                for part in (at(number, other, option) for option in range(len(other.ratios)))
            ]
            terms += self._by_layers((*names, other.name), found)
        if not names:
            terms += self._by_layers((), base)
        fixed = sum(term.values[0] for term in terms if not term.choices)
        return Limit(cost.name, cost.most, tuple(term for term in terms if term.choices), fixed)

    def cost_of(self, cost: Cost, picks: Picks) -> float:
        """Return what the shape of picks costs."""
        return cost.of_shape(self.shape(picks))

    def shape(self, picks: Picks) -> Shape:
        """Return the shape that picks lead to."""
        ratios = {axis: one.ratios[picks[one.name]] for one in self.dimensions for axis in one.axes}
        return self._at(ratios, len(self.layers(picks)) if self.removable else self.whole.layers)

    def _by_layers(self, names: tuple[str, ...], parts: Sequence[tuple[float, float]]) -> list[Term]:
        """Return terms of costs, each given as what does not depend on layers and what each layer costs."""
        if not self.removable:
            return [Term(names, tuple(base + self.whole.layers * each for base, each in parts))]
        base = Term(names, tuple(min(inf, part) for part, _ in parts))
        finite = [0.0 if each == inf else each for _, each in parts]
        return [base, *(present(names, finite, [layer]) for layer in self.removable)]

    def _parts(self, cost: Cost, ratios: Mapping[Axis, float]) -> tuple[float, float]:
        """Return what a shape costs beside its layers, and what each layer costs; infinite if the config cannot express it."""
        try:
            shape = self._at(ratios, self.whole.layers)
        except UnsupportedShape:
            return inf, 0.0
        whole = cost.of_shape(shape)
        if not self.removable or shape.layers < 2:
            return whole, 0.0
        each = whole - cost.of_shape(shape.model_copy(update={"layers": shape.layers - 1}))
        return whole - shape.layers * each, each

    def _at(self, ratios: Mapping[Axis, float], layers: int) -> Shape:
        cut = {axis: ratio for axis, ratio in ratios.items() if ratio}
        shape = self.whole
        if cut:
            alone = self.prune.model_copy(update={"axes": tuple(cut), "ratio": max(cut.values())})
            shape = shape_at(self.family, self.whole, alone, {**dict.fromkeys(self.prune.ratios, 0.0), **cut})
        return shape.model_copy(update={"layers": layers})

    def _dimension(self, axes: tuple[Axis, ...]) -> _Dimension:
        found: dict[Shape, float] = {}
        for step in range(STEPS):
            try:
                shape = self._at(dict.fromkeys(axes, step / STEPS), self.whole.layers)
            except UnsupportedShape:
                continue
            found.setdefault(shape, step / STEPS)
        return _Dimension(axes, tuple(found.values()), tuple(found))
