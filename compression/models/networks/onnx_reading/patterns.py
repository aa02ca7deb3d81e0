"""Recognize what exporters take apart: activations, layer norms, biases, padding. One node can be cut and rounded again.

A rule replaces the last node of a pattern, or lets its readers read an earlier node (`_alias`); nodes that nobody reads are
dropped afterwards.
"""

import math
from collections import Counter
from collections.abc import Iterator
from operator import ge

import numpy as np

from compression.models.networks.graph import Node, Value as Attribute
from compression.models.networks.onnx_reading.call import LARGEST
from compression.models.networks.onnx_reading.constants import Array
from compression.models.networks.onnx_reading.draft import Draft

DEEPEST_PRODUCT = 3
TOLERANCE = 1e-3
"""Of the constants in formulas, relative: some exporters write five digits."""


def simplified(draft: Draft, output: str) -> tuple[list[Node], dict[str, Array], str]:
    """Return the nodes that the output depends on, their tensors, and the output's name."""
    return _Patterns(draft, output).found()


class _Patterns:
    def __init__(self, draft: Draft, output: str) -> None:
        self._draft = draft
        self._output = output
        self._nodes: dict[str, Node] = {}
        self._tensors = draft.tensors
        self._alias: dict[str, str] = {}
        self._readers = Counter(name for node in draft.nodes for name in node.inputs)
        self._readers[output] += 1
        self._read_by: dict[str, list[Node]] = {}
        for node in draft.nodes:
            for name in node.inputs:
                self._read_by.setdefault(name, []).append(node)
        self._constants = {node.name: node for node in draft.nodes if node.op == "constant"}
        self._norms: dict[str, tuple[str, int]] = {}
        """Values of layer norms that were put together → the node, and the axis of the value."""

    def found(self) -> tuple[list[Node], dict[str, Array], str]:
        for before in self._draft.nodes:
            inputs = tuple(self._alias.get(name, name) for name in before.inputs)
            node = before if inputs == before.inputs else before.model_copy(update={"inputs": inputs})
            self._nodes[node.name] = node
            for rule in RULES.get(node.op, ()):
                if rule(self, node):
                    break
        output = self._alias.get(self._output, self._output)
        needed, kept = {output}, []
        for node in reversed(self._nodes.values()):
            if node.name in needed:
                needed.update(node.inputs)
                kept.append(node)
        kept.reverse()
        names = [node.tensor(role) for node in kept for role in node.tensors]
        return kept, {name: np.asarray(self._tensors[name], order="C") for name in names}, output

    def _node(self, name: str, op: str) -> Node | None:
        found = self._nodes.get(name)
        return found if found is not None and found.op == op else None

    def _array(self, name: str) -> Array | None:
        found = self._constants.get(name)
        return None if found is None else self._tensors[found.tensor("value")]

    def _scalar(self, name: str) -> float | None:
        array = self._array(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def _is(self, name: str, number: float) -> bool:
        found = self._scalar(name)
        return found is not None and math.isclose(found, number, rel_tol=TOLERANCE)

    def _with_scalar(self, name: str, op: str, number: float) -> str | None:
        """Return what `op` combines with this number in a value; None if the value is another."""
        found = self._node(name, op)
        if found is None:
            return None
        one, other = found.inputs
        if self._is(other, number):
            return one
        return other if op in ("add", "mul") and self._is(one, number) else None

    def _input(self, name: str, op: str) -> str | None:
        found = self._node(name, op)
        return None if found is None else found.inputs[0]

    def _replace(self, node: Node, op: str, value: str, **attributes: Attribute) -> bool:
        self._nodes[node.name] = Node(name=node.name, op=op, inputs=(value,), attributes=attributes, tensors={})
        return True

    def _products(self, name: str, depth: int = DEEPEST_PRODUCT) -> Iterator[tuple[float, tuple[str, ...]]]:
        """Yield the ways to write a value as a number times one or two values."""
        yield 1.0, (name,)
        node = self._node(name, "mul") or self._node(name, "div")
        if node is None or depth == 0:
            return
        one, other = node.inputs
        number = self._scalar(other)
        if number:
            for factor, values in self._products(one, depth - 1):
                yield (factor * number if node.op == "mul" else factor / number), values
        elif node.op == "mul" and (number := self._scalar(one)):
            yield from ((factor * number, values) for factor, values in self._products(other, depth - 1))
        elif node.op == "mul":
            seconds = [found for found in self._products(other, depth - 1) if len(found[1]) == 1]
            for factor, values in self._products(one, depth - 1):
                yield from ((factor * second, values + more) for second, more in seconds if len(values) == 1)

    def product(self, node: Node) -> bool:
        """Recognize SiLU, hard swish, hard sigmoid, mish and GELU (Hendrycks & Gimpel 2016) in a product."""
        for factor, values in self._products(node.name):
            if len(values) == 1 and math.isclose(factor, 1 / 6, rel_tol=TOLERANCE):
                ramp = self._ramp(values[0])
                if ramp is not None:
                    return self._replace(node, "hard_sigmoid", ramp, alpha=1 / 6, beta=0.5)
            for value, gate in (values, values[::-1]) if len(values) == 2 else ():
                if self._gated(node, factor, value, gate):
                    return True
        return False

    def _ramp(self, name: str) -> str | None:
        """Return x if a value is x + 3 clipped to 0 to 6."""
        clip = self._node(name, "clip")
        if clip is None or (clip.attributes["low"], clip.attributes["high"]) != (0, 6):
            return None
        return self._with_scalar(clip.inputs[0], "add", 3)

    def _gated(self, node: Node, factor: float, value: str, gate: str) -> bool:
        if math.isclose(factor, 1, rel_tol=TOLERANCE):
            if self._input(gate, "sigmoid") == value:
                return self._replace(node, "silu", value)
            hard = self._node(gate, "hard_sigmoid")
            if hard is not None and hard.inputs == (value,) and self._is_ramp(hard):
                return self._replace(node, "hard_swish", value)
            inner = self._input(gate, "tanh")
            if inner is not None and self._input(inner, "softplus") == value:
                return self._replace(node, "mish", value)
        if math.isclose(factor, 1 / 6, rel_tol=TOLERANCE) and self._ramp(gate) == value:
            return self._replace(node, "hard_swish", value)
        bell = self._with_scalar(gate, "add", 1) if math.isclose(factor, 0.5, rel_tol=TOLERANCE) else None
        if bell is None:
            return False
        if (inner := self._input(bell, "erf")) is not None:
            if any(
                values == (value,) and math.isclose(scale, 0.5**0.5, rel_tol=TOLERANCE)
                for scale, values in self._products(inner)
            ):
                return self._replace(node, "gelu", value, approximate="none")
        elif (inner := self._input(bell, "tanh")) is not None and self._is_cubic(inner, value):
            return self._replace(node, "gelu", value, approximate="tanh")
        return False

    def _is_ramp(self, node: Node) -> bool:
        alpha, beta = (float(node.attributes[name]) for name in ("alpha", "beta"))  # type: ignore[arg-type]
        return math.isclose(alpha, 1 / 6, rel_tol=TOLERANCE) and beta == 0.5

    def _is_cubic(self, name: str, value: str) -> bool:
        """Return whether a value is √(2/π) × (x + 0.044715 x³)."""
        for factor, values in self._products(name):
            total = self._node(values[0], "add") if len(values) == 1 else None
            if total is None or not math.isclose(factor, (2 / math.pi) ** 0.5, rel_tol=TOLERANCE):
                continue
            for one, other in (total.inputs, total.inputs[::-1]):
                if one == value and any(
                    math.isclose(scale, 0.044715, rel_tol=TOLERANCE) and self._is_cube(parts, value)
                    for scale, parts in self._products(other)
                ):
                    return True
        return False

    def _is_cube(self, values: tuple[str, ...], base: str) -> bool:
        if len(values) == 1:
            return self._with_scalar(values[0], "pow", 3) == base
        return any(one == base and self._is_square(other, base) for one, other in (values, values[::-1]))

    def _is_square(self, name: str, base: str) -> bool:
        node = self._node(name, "mul")
        return (node is not None and node.inputs == (base, base)) or self._with_scalar(name, "pow", 2) == base

    def norm(self, node: Node) -> bool:
        """Recognize a layer norm whose weights follow: (x − mean) / √(variance + epsilon), over one axis."""
        centred, root = node.inputs
        difference, total = self._node(centred, "sub"), self._input(root, "sqrt")
        added = self._node(total, "add") if total is not None else None
        mean = self._node(difference.inputs[1], "reduce_mean") if difference is not None else None
        if difference is None or added is None or mean is None or mean.inputs[0] != difference.inputs[0]:
            return False
        value = difference.inputs[0]
        for variance, least in (added.inputs, added.inputs[::-1]):
            epsilon, squared = self._scalar(least), self._node(variance, "reduce_mean")
            if epsilon is None or squared is None or squared.attributes != mean.attributes:
                continue
            if self._is_square(squared.inputs[0], centred) or self._is_square_of_like(squared.inputs[0], difference):
                return self._put_norm(node, value, mean, epsilon)
        return False

    def _is_square_of_like(self, name: str, difference: Node) -> bool:
        """Return whether a value is the square of another node that computes the same difference."""
        node = self._node(name, "pow") or self._node(name, "mul")
        other = self._node(node.inputs[0], "sub") if node is not None else None
        if node is None or other is None or not self._is_square(name, other.name):
            return False
        means = [self._node(each.inputs[1], "reduce_mean") for each in (other, difference)]
        return other.inputs[0] == difference.inputs[0] and all(
            mean is not None and mean.inputs == means[0].inputs and mean.attributes == means[0].attributes  # type: ignore[union-attr]
            for mean in means
        )

    def _put_norm(self, node: Node, value: str, mean: Node, epsilon: float) -> bool:
        shape, axes = self._draft.shapes[value], mean.attributes["axes"]
        if not isinstance(axes, tuple) or len(axes) != 1 or not mean.attributes["keep"]:
            return False
        axis, last = axes[0], len(shape) - 1
        if not self._is_scaled(node, axis):
            # Weights of its own would be trained and counted: of a group or instance norm one for each place of an image.
            return False
        order = [place for place in range(len(shape)) if place != axis] + [axis]
        name = node.name if axis == last else self._draft.unique(f"{node.name}_norm")
        if axis != last:
            turned = Node(
                name=self._draft.unique(f"{node.name}_turned"),
                op="transpose",
                inputs=(value,),
                attributes={"order": tuple(order)},
                tensors={},
            )
            del self._nodes[node.name]  # it comes last again
            self._nodes[turned.name] = turned
            value = turned.name
            back = {"order": tuple(order.index(place) for place in range(len(shape)))}
        self._nodes[name] = Node(
            name=name, op="layer_norm", inputs=(value,), attributes={"epsilon": epsilon}, tensors={"weight": (shape[axis],)}
        )
        self._tensors[f"{name}.weight"] = np.ones(shape[axis], np.float32)
        if axis != last:
            self._nodes[node.name] = Node(name=node.name, op="transpose", inputs=(name,), attributes=back, tensors={})
        self._norms[node.name] = (name, axis)
        return True

    def _is_scaled(self, node: Node, axis: int) -> bool:
        """Return whether a product with one number for each place of an axis is all that reads a node."""
        (reader, *others), shape = self._read_by.get(node.name, [None]), self._draft.shapes[node.name]
        if reader is None or others or reader.op != "mul" or node.name == self._output:
            return False
        return any(self._vector(name, shape, axis) is not None for name in reader.inputs)

    def scale(self, node: Node) -> bool:
        """Give a layer norm that was put together the weights that follow it."""
        for value, other in (node.inputs, node.inputs[::-1]):
            if value in self._norms and self._readers[value] == 1:
                name, axis = self._norms[value]
                vector = self._vector(other, self._draft.shapes[value], axis)
                if vector is not None and "bias" not in self._nodes[name].tensors:
                    self._tensors[f"{name}.weight"] = self._tensors[f"{name}.weight"] * vector
                    return self._skip(node, value)
        return False

    def shift(self, node: Node) -> bool:
        """Give a layer norm that was put together, a linear layer or a convolution the bias that follows it."""
        for value, other in (node.inputs, node.inputs[::-1]):
            if self._readers[value] != 1 or value not in self._nodes:
                continue
            name, axis = self._norms.get(value, (value, 1 if self._nodes[value].op == "conv" else -1))
            layer = self._nodes[name]
            if (layer.op not in ("linear", "conv") and value not in self._norms) or "bias" in layer.tensors:
                continue
            vector = self._vector(other, self._draft.shapes[value], axis)
            if vector is not None:
                self._nodes[name] = layer.model_copy(update={"tensors": {**layer.tensors, "bias": vector.shape}})
                self._tensors[f"{name}.bias"] = vector
                return self._skip(node, value)
        return False

    def _skip(self, node: Node, value: str) -> bool:
        """Let readers of a node read an earlier value."""
        self._readers[value] = self._readers[node.name]
        self._alias[node.name] = value
        del self._nodes[node.name]
        return True

    def _vector(self, name: str, shape: tuple[int, ...], axis: int) -> Array | None:
        """Return a constant that has one number for each place of one axis of a shape, and none of its own otherwise."""
        array, place = self._array(name), axis % len(shape)
        if array is None or array.ndim > len(shape):
            return None
        sizes = (1,) * (len(shape) - array.ndim) + array.shape
        if sizes != tuple(shape[axis] if axis == place else 1 for axis in range(len(shape))):
            return None
        return array.reshape(-1)

    def padding(self, node: Node) -> bool:
        """Let a convolution, or a pool that takes the maximum, pad by itself."""
        pad, pools = self._node(node.inputs[0], "pad"), node.op == "max_pool"
        if pad is None or pad.attributes["value"] != (-LARGEST if pools else 0):
            return False
        pads, padding = pad.attributes["pads"], node.attributes["padding"]
        if not isinstance(pads, tuple) or not isinstance(padding, tuple) or any(pads[:2]):
            return False
        wider = tuple(one + other for one, other in zip(padding, (pads[2], pads[4], pads[3], pads[5]), strict=True))
        kernel = node.attributes.get("kernel")
        if pools and isinstance(kernel, tuple) and (node.attributes["ceil"] or any(map(ge, wider, kernel * 2))):
            return False  # a window that begins in its own padding does not count
        self._nodes[node.name] = node.model_copy(
            update={"inputs": pad.inputs, "attributes": {**node.attributes, "padding": wider}}
        )
        return True

    def floor(self, node: Node) -> bool:
        """Recognize a ReLU in a maximum with 0."""
        for value, other in (node.inputs, node.inputs[::-1]):
            if self._scalar(other) == 0 and self._array(value) is None:
                return self._replace(node, "relu", value)
        return False


RULES = {
    "mul": (_Patterns.product, _Patterns.scale),
    "div": (_Patterns.product, _Patterns.norm),
    "add": (_Patterns.shift,),
    **dict.fromkeys(("conv", "max_pool"), (_Patterns.padding,)),
    "maximum": (_Patterns.floor,),
}
"""Operator → what may be recognized where such a node is the last one."""
