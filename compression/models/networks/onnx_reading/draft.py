"""A network while it is read: its nodes and weights so far, with names that a person recognises."""

import re
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from compression.models.networks.graph import INPUT, MOST_NODES, Node, Shape, Value as Attribute
from compression.models.networks.onnx_reading.constants import MOST_NUMBERS, Array
from compression.models.networks.value_shapes import node_shape

LONGEST_NAME = 80


class Draft:
    """The nodes of a network, in order, the shapes of their values and the arrays of their tensors."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: (1, *shape)}
        self.tensors: dict[str, Array] = {}
        self.laid_out: dict[Hashable, str] = {}
        """Values in a plain layout that were made before, by what they were made of."""
        self._constants: set[str] = set()
        self._names = {INPUT: 1}
        self._numbers = 0

    def emit(
        self, op: str, inputs: Sequence[str], hint: str, tensors: Mapping[str, Array | None], /, **attributes: Attribute
    ) -> str:
        """Add a node and return its name, which is like `hint`. Raises ValueError if it does not fit its inputs."""
        arrays = {role: np.asarray(array, np.float32) for role, array in tensors.items() if array is not None}
        shapes = {role: array.shape for role, array in arrays.items()}
        self._numbers += sum(array.size for array in arrays.values())
        if len(self.nodes) >= MOST_NODES or self._numbers > 2 * MOST_NUMBERS:
            raise ValueError(f"the network has more than {MOST_NODES:,} operators or {2 * MOST_NUMBERS:,} weights")
        node = Node(name=self.unique(hint), op=op, inputs=tuple(inputs), attributes=attributes, tensors=shapes)
        self.shapes[node.name] = node_shape(node, self.shapes, self._constants)
        if op == "constant":
            self._constants.add(node.name)
        self.nodes.append(node)
        self.tensors |= {node.tensor(role): array for role, array in arrays.items()}
        return node.name

    def unique(self, hint: str) -> str:
        """Return a name of letters, digits and underscores that no node has yet."""
        name = re.sub(r"[^A-Za-z0-9_]+", "_", hint).strip("_")[-LONGEST_NAME:].lstrip("_") or "node"
        name = name if name[0].isalpha() else f"n{name}"
        found = name
        while found in self._names:
            self._names[name] += 1
            found = f"{name}_{self._names[name]}"
        self._names[found] = 1
        return found


def node_hint(name: str, op: str) -> str:
    """Return what an ONNX node's name says: "layer1.0/conv1/conv" of torch's "/layer1/layer1.0/conv1/Conv"."""
    *scopes, last = name.strip("/").split("/")
    scopes = [here for here, inner in zip(scopes, [*scopes, last][1:], strict=True) if not inner.startswith(f"{here}.")]
    named = re.fullmatch(rf"(?:node_)?(?:{re.escape(op)})?((?:_\d+)?)", last, re.IGNORECASE)
    ending = f"{op.lower()}{named[1]}" if named else last.removeprefix("node_")
    return "/".join([*scopes, ending]) if name else op.lower()


def tensor_hint(origin: str, otherwise: str) -> str:
    """Return the module that a weight belongs to: "layer1.0.conv1" of "layer1.0.conv1.weight"."""
    module, dot, role = origin.rpartition(".")
    if dot and role in ("weight", "gamma", "scale", "kernel") and module:
        return module
    return otherwise
