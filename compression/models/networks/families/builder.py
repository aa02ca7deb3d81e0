"""Build the graph of a stock network node by node, with the name that stock code gives each tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from compression.models.networks.families.settings import ACTIVATIONS
from compression.models.networks.graph import Graph, Node, Shape
from compression.models.networks.operators import Attribute
from compression.models.networks.window_distances import distances

Floats = NDArray[np.float32]
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
LAYER_NORM = ("weight", "bias")
COUNTER = "num_batches_tracked"
"""A batch norm's counter of batches, which its checkpoints have and no computation reads."""


@dataclass(frozen=True)
class Entries:
    """Says that a tensor has a stock table's entry of each pair of a window's places, by their distance.

    table: (entries, columns); the tensor: (columns, places, places).
    """

    table: Shape
    window: int  #: height and width

    def spread(self, table: Floats) -> Floats:
        """Return the tensor that a table makes."""
        return np.ascontiguousarray(np.moveaxis(table[distances(self.window)], -1, 0))

    def gathered(self, tensor: Floats) -> Floats | None:
        """Return the table that makes a tensor; None if pairs of one distance have different numbers."""
        table = np.zeros((self.table[0], len(tensor)), tensor.dtype)
        table[distances(self.window)] = np.moveaxis(tensor, 0, -1)
        return table if np.array_equal(self.spread(table), tensor) else None


@dataclass(frozen=True)
class StockNetwork:
    """A network as its stock config.json describes it."""

    architecture: str  #: the stock class
    graph: Graph
    names: Mapping[str, str]  #: tensor "node.role" → its name in stock checkpoints of the model with its head
    labels: tuple[str, ...] | None  #: of its outputs; None for a bare model, whose head is new
    head: tuple[str, ...]  #: stock names of the head's tensors
    entries: Mapping[str, Entries]  #: tensors that are made of a stock table
    fixed: Mapping[str, Callable[[], Floats]]  #: tensors that config.json implies, and that no training changes
    takers: Mapping[str, str]  #: of these → the tensor that is multiplied by what a cut network's lacks of the implied one
    counters: tuple[str, ...]  #: stock names of counters of batches: whole numbers, of no axis


@dataclass
class Builder:
    """A graph that is being built. Each method adds a node and returns its name, which is its value's."""

    shape: Shape  #: of the input: channels, height, width
    nodes: list[Node] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Entries] = field(default_factory=dict)
    fixed: dict[str, Callable[[], Floats]] = field(default_factory=dict)
    takers: dict[str, str] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)

    def add(self, name: str, op: str, *inputs: str, **attributes: Attribute) -> str:
        """Add an operator without tensors."""
        return self._add(Node(name=name, op=op, inputs=inputs, attributes=attributes, tensors={}))

    def _add(self, node: Node, stock: str | None = None) -> str:
        """Add a node. stock: what stock code calls the module that has its tensors."""
        self.nodes.append(node)
        if stock is not None:
            self.names |= {node.tensor(role): f"{stock}.{role}" for role in node.tensors}
        return node.name

    def conv(self, name: str, value: str, stock: str, weight: Shape, *, bias: bool = False, **attributes: Attribute) -> str:
        """Add a convolution, of stride 1 and without padding if nothing else is said. weight: as in `OPERATORS`."""
        tensors = {"weight": weight, **({"bias": weight[:1]} if bias else {})}
        found = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1, **attributes}
        return self._add(Node(name=name, op="conv", inputs=(value,), attributes=found, tensors=tensors), stock)

    def linear(self, name: str, value: str, stock: str, weight: Shape, *, bias: bool = True) -> str:
        """Add a linear layer. weight: (outputs, inputs)."""
        tensors = {"weight": weight, **({"bias": weight[:1]} if bias else {})}
        return self._add(Node(name=name, op="linear", inputs=(value,), tensors=tensors), stock)

    def batch_norm(self, name: str, value: str, stock: str, channels: int, epsilon: float = 1e-5) -> str:
        """Add a batch norm."""
        self.counters.append(f"{stock}.{COUNTER}")
        return self._norm(name, value, stock, "batch_norm", dict.fromkeys(BATCH_NORM, (channels,)), epsilon)

    def layer_norm(self, name: str, value: str, stock: str, channels: int, epsilon: float) -> str:
        """Add a layer norm over the last axis."""
        return self._norm(name, value, stock, "layer_norm", dict.fromkeys(LAYER_NORM, (channels,)), epsilon)

    def _norm(self, name: str, value: str, stock: str, op: str, tensors: dict[str, Shape], epsilon: float) -> str:
        node = Node(name=name, op=op, inputs=(value,), attributes={"epsilon": epsilon}, tensors=tensors)
        return self._add(node, stock)

    def constant(self, name: str, stock: str, shape: Shape, entries: Entries | None = None) -> str:
        """Add a tensor as a value. stock: its own name; entries: how it makes the value, if it is not the value itself."""
        if entries is not None:
            self.entries[f"{name}.value"] = entries
        self.names[f"{name}.value"] = stock
        return self._add(Node(name=name, op="constant", tensors={"value": shape}))

    def fixed_values(self, name: str, shape: Shape, values: Callable[[], Floats]) -> str:
        """Add numbers that config.json implies, and that no training changes."""
        self.fixed[f"{name}.value"] = values
        return self._add(Node(name=name, op="constant", tensors={"value": shape}))

    def number(self, name: str, value: float, taken_by: str | None = None) -> str:
        """Add one number that config.json implies. taken_by: the constant that makes up for another number in its place."""
        if taken_by is not None:
            self.takers[f"{name}.value"] = f"{taken_by}.value"
        return self.fixed_values(name, (1,), lambda: np.full(1, value, np.float32))

    def activation(self, name: str, value: str, called: str) -> str:
        """Add an activation by its name in transformers."""
        op, attributes = ACTIVATIONS[called]
        return self.add(name, op, value, **attributes)

    def classifier(self, value: str, stock: str, width: int, outputs: int) -> tuple[str, ...]:
        """Add the head and return the stock names of its tensors."""
        self.linear("classifier", value, stock, (outputs, width))
        return (f"{stock}.weight", f"{stock}.bias")

    def network(self, architecture: str, labels: tuple[str, ...] | None, head: tuple[str, ...]) -> StockNetwork:
        """Return the network, whose last node is its output."""
        graph = Graph(shape=self.shape, nodes=tuple(self.nodes), output=self.nodes[-1].name)
        fixed = self.fixed, self.takers
        return StockNetwork(architecture, graph, self.names, labels, head, self.entries, *fixed, tuple(self.counters))
