"""What can be chosen of a network of images: the width of each group, and which residual blocks stay. Torch-free."""

from collections.abc import Iterator, Mapping
from itertools import product

from compression.models.architectures.network_shapes import FEWEST_UNITS, at_widths, step_of
from compression.planning.search.problem import Choice, Limit, Picks, Term
from compression.planning.search.space import Cost, LayerSpace, check_tables, present
from compression.schema.error_tables import ErrorTables, LayerErrors
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import Count, GroupFacts, LayerFacts, NetworkFacts

MOST_TOGETHER = 2
"""Groups whose widths a layer's cost is known for in every combination; of more, by pairs."""


class NetworkSpace(LayerSpace):
    """The widths of a network: each group's own, at the widths of the tables, rounded as any cut's."""

    def __init__(
        self, tables: ErrorTables, network: NetworkFacts, whole: Shape, prune: Prune, weights: Mapping[str, float] | None = None
    ) -> None:
        """Raises UnsupportedShape."""
        super().__init__(tables, prune, weights or {})
        check_tables(tables, prune)
        self.network, self.whole = network, whole
        known = tables.by_key
        self.widths: dict[str, tuple[int, ...]] = {}  #: of each group that can be cut, the whole one first
        for group in network.groups:
            if group.axis in prune.axes and group.key in known:
                self.widths[group.key] = _rounded(group, [point.units for point in known[group.key].points], prune)
        self.blocks = {block.name: block for block in network.blocks}

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return one choice for each group, and whether each block stays."""
        return (*(Choice(key, len(units)) for key, units in self.widths.items()), *self.layer_choices)

    @property
    def error(self) -> tuple[Term, ...]:
        """Return the error of each group at its width, and of each block's absence."""
        known = self.tables.by_key
        return (*(self.group_error(key, known[key], units) for key, units in self.widths.items()), *self.layer_errors)

    def limit(self, cost: Cost) -> Limit:
        """Return a cost as the sum of the layers' costs: by the widths of what they make and read, and by their blocks."""
        terms: list[Term] = []
        fixed = cost.fixed
        for layer in self.network.layers:
            homes = [one for one in self.removable if one.name in self.blocks and layer.name in self.blocks[one.name].layers]
            for term in self._of_layer(cost, layer, homes):
                if term.choices:
                    terms.append(term)
                else:
                    fixed += term.values[0]
        return Limit(cost.name, cost.most, tuple(terms), fixed)

    def cost_of(self, cost: Cost, picks: Picks) -> float:
        """Return the sum of the costs of the layers that stay, at their widths."""
        widths, stays = self._widths(picks), {*self.layers(picks)}
        blocks = [self.blocks[layer.name] for at, layer in enumerate(self.tables.layers) if at not in stays]
        gone = {name for block in blocks for name in block.layers}
        return cost.fixed + sum(cost.of_layer(layer, widths) for layer in self.network.layers if layer.name not in gone)

    def shape(self, picks: Picks) -> Shape:
        """Return the shape that picks lead to."""
        layers = len(self.layers(picks)) if self.removable else self.whole.layers
        return at_widths(self.whole.model_copy(update={"layers": layers}), self._widths(picks), self.network)

    def deepest(self) -> Iterator[Picks]:
        """Yield the cuts with the narrowest of all groups and one block, each block in turn."""
        narrowest = {key: len(units) - 1 for key, units in self.widths.items()}
        yield from ({**narrowest, **layers} for layers in self.single_layers())

    def _widths(self, picks: Picks) -> dict[str, int]:
        cut = {key: units[picks[key]] for key, units in self.widths.items()}
        return {**self.network.widths, **cut}

    def _of_layer(self, cost: Cost, layer: LayerFacts, homes: list[LayerErrors]) -> Iterator[Term]:
        keys = [key for key in self.widths if key in layer.outputs.units or key in layer.inputs.units]
        whole = self.network.widths
        if len(keys) <= MOST_TOGETHER:
            combinations = product(*(self.widths[key] for key in keys))
            found = [cost.of_layer(layer, {**whole, **dict(zip(keys, units, strict=True))}) for units in combinations]
            yield present(tuple(keys), found, homes)
            return
        # What it makes × what it reads, each a sum over groups: the whole layer's cost in proportion to both.
        total = cost.of_layer(layer, whole)
        for (one, own), (other, others) in product(self._shares(layer.outputs), self._shares(layer.inputs)):
            if one is not None and one == other:
                both = [total * share * others[at] for at, share in enumerate(own)]
                yield present((one,), both, homes)
                continue
            names = tuple(name for name in (one, other) if name is not None)
            yield present(names, [total * share * more for share in own for more in others], homes)

    def _shares(self, count: Count) -> Iterator[tuple[str | None, list[float]]]:
        """Yield the share of a dimension that each group of a choice has at each of its widths; None: what stays."""
        size = count.at(self.network.widths)
        if not size:
            yield None, [1.0]
            return
        chosen = {key: each for key, each in count.units.items() if key in self.widths}
        rest = size - sum(each * self.network.widths[key] for key, each in chosen.items())
        if rest:
            yield None, [rest / size]
        for key, each in chosen.items():
            yield key, [each * units / size for units in self.widths[key]]


def _rounded(group: GroupFacts, known: list[int], prune: Prune) -> tuple[int, ...]:
    """Return the widths at which a group's error is known, rounded as cuts are; the whole one comes first."""
    step, found = step_of(group, prune.rounding), [group.units]
    for units in known[1:]:
        near = max(round(units / step) * step, step, FEWEST_UNITS)
        if near < found[-1]:
            found.append(near)
    return tuple(found)
