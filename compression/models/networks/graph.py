"""A network as a graph of operators: what an ONNX file, or another library's model, becomes before Lathe changes it.

Axis 0 of every value that depends on the input is the batch, times a factor: the shape (2, 49, 96) of a value means (2 × rows,
49, 96). A `constant` has no such axis. Each node has one output, which bears its name; a tensor is named "node.role", which is
also its key in the network's checkpoint.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from compression.models.networks.operators import OPERATORS
from compression.schema.config import Config

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")]
Value = int | float | str | tuple[int, ...]
Shape = tuple[int, ...]
INPUT = "input"
"""The name of the network's input."""
MOST_NODES = 20_000


class Node(Config):
    """One operator. `operators` lists the attributes and the tensors of each."""

    name: Name
    op: str
    inputs: Annotated[tuple[Name, ...], Field(description="Values: the network's input, or earlier nodes.")] = ()
    attributes: dict[str, Value] = Field(default_factory=dict)
    tensors: Annotated[dict[str, Shape], Field(default_factory=dict, description="Role → shape of a tensor.")]

    def tensor(self, role: str) -> str:
        """Return the name of the tensor with a role."""
        return f"{self.name}.{role}"


class Graph(Config):
    """A network of one input and one output, the logits. Its nodes are in an order in which they can run."""

    shape: Annotated[Shape, Field(min_length=3, max_length=3, description="Of the input: channels, height, width.")]
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=MOST_NODES)]
    output: Name

    @model_validator(mode="after")
    def _nodes_run_in_order(self) -> Self:
        known = {INPUT}
        for node in self.nodes:
            if node.op not in OPERATORS:
                raise ValueError(f"{node.name}: there is no operator {node.op!r:.100}")
            if node.name in known:
                raise ValueError(f"there are two nodes {node.name}")
            if unknown := [name for name in node.inputs if name not in known]:
                raise ValueError(f"{node.name} reads {unknown[0]}, which no earlier node makes")
            if wrong := OPERATORS[node.op].disagrees(len(node.inputs), node.attributes, node.tensors):
                raise ValueError(f"{node.name} ({node.op}): {wrong}")
            known.add(node.name)
        if self.output not in known - {INPUT}:
            raise ValueError(f"no node makes the output {self.output}")
        return self

    def tensors(self) -> dict[str, Shape]:
        """Return all tensors by name, in the order of the nodes."""
        return {node.tensor(role): shape for node in self.nodes for role, shape in node.tensors.items()}

    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """Return the nodes that read each value; none for the output."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def named(self, name: str) -> Node:
        """Return a node. Raises KeyError."""
        found = next((node for node in self.nodes if node.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    def used(self) -> Iterator[Node]:
        """Yield the nodes that the output depends on, in order."""
        needed = {self.output}
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return (node for node in self.nodes if node.name in needed)
