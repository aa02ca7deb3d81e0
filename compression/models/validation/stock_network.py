"""Derive from a stock image classifier's config.json its network, its costs, and the name and shape of each tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from compression.models.architectures.network_shapes import whole_shape
from compression.models.architectures.tensor_names import ExpectedTensors
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.networks.costs import network_facts
from compression.models.networks.families.builder import StockNetwork
from compression.models.networks.families.registry import FAMILIES
from compression.models.networks.families.stock_checkpoint import tied
from compression.models.networks.fixed_parts import without_fixed
from compression.schema.errors import CompressionError
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts


@dataclass(frozen=True)
class StockDescription:
    """A stock image classifier as its config.json and preprocessor_config.json describe it."""

    kind: str
    stock: StockNetwork
    network: NetworkFacts
    shape: Shape
    beside: Mapping[str, tuple[int, ...]]  #: tensors that its checkpoint may hold too
    max_positions: int = 0  #: an image has no length
    biases: tuple[()] = ()

    @property
    def architecture(self) -> str:
        """Return the name of the stock class."""
        return self.stock.architecture

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Return the names of the outputs; None for a bare model."""
        return self.stock.labels


@dataclass(frozen=True)
class StockFolder:
    """Describes the stock image classifier of a folder."""

    folder: Path

    def describe(self, config: Mapping[str, Any]) -> tuple[StockDescription | None, list[CompressionError]]:
        """Describe a config.json whose model_type is in `FAMILIES`, or return None and the errors."""
        family = FAMILIES[str(config["model_type"])]
        try:
            size, problems = ImagePreprocessing.read(self.folder).size, list[CompressionError]()
        except CompressionError as problem:
            size, problems = None, [problem]
        stock, more = family.describe(config, size)
        if stock is None or problems:
            return None, [*problems, *more]
        facts = network_facts(stock.graph).model_copy(update={"tied": tied(config, stock.graph)})
        facts = without_fixed(facts, frozenset(stock.fixed), {name: entries.window for name, entries in stock.entries.items()})
        shape = whole_shape(facts)
        return StockDescription(family.kind, stock, facts, shape, family.beside(config)), []

    def expected(self, described: StockDescription) -> ExpectedTensors:
        """Return the tensors that the checkpoint must hold and those that it may hold, by their names in stock files."""
        family, stock = FAMILIES[described.kind], described.stock
        shapes = stock.graph.tensors()
        all_ = {
            name: stock.entries[tensor].table if tensor in stock.entries else shapes[tensor]
            for tensor, name in stock.names.items()
        }
        head = {name: all_.pop(name) for name in stock.head}
        beside = {**described.beside, **dict.fromkeys(stock.counters, ())}
        own = {} if stock.labels is None else head
        return ExpectedTensors(
            family.prefix,
            {name.removeprefix(family.prefix): shape for name, shape in all_.items()},
            {name.removeprefix(family.prefix): shape for name, shape in beside.items()},
            own,
            own,
            called=family.filed,
        )

    def parameters(self, described: StockDescription) -> Parameters:
        """Count the elements of the weights; a bare model's have no head."""
        total = described.network.parameters()
        if described.labels is None:
            names = {name: tensor for tensor, name in described.stock.names.items()}
            total -= sum(prod(described.stock.graph.tensors()[names[name]]) for name in described.stock.head)
        return Parameters(total=total, embedding=0, other=total)
