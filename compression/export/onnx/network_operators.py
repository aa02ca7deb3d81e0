"""Each operator of a network's graph as nodes of an ONNX graph, in float32 (opset 20).

A function takes (where to write, the node, its inputs' names, the output's name). The size of a batch is free, so a
reshape infers axis 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compression.export.onnx.graph_builder import Array, Nodes
from compression.models.networks.graph import INPUT, Graph, Node, Shape
from compression.models.networks.operators import OPERATORS
from compression.models.networks.value_shapes import value_shapes

PIXELS, LOGITS = "pixel_values", "logits"


class NetworkNodes(Nodes):
    """An ONNX graph under construction. tensors: the network's, by name; names: those that its values have in the file."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Array]) -> None:
        super().__init__("network")
        self.graph, self.tensors, self.shapes = graph, tensors, value_shapes(graph)
        self.names = {INPUT: PIXELS}

    def add(self, node: Node) -> None:
        """Write a node whose inputs are written."""
        # A colon keeps the name apart from tensors and from the file's own input and output.
        self.names[node.name] = LOGITS if node.name == self.graph.output else f"{node.name}:0"
        ONNX[node.op](self, node, [self.names[name] for name in node.inputs], self.names[node.name])

    def tensor(self, node: Node, role: str) -> str:
        """Make a node's tensor an initializer; return its name."""
        return self.constant(node.tensor(role), self.tensors[node.tensor(role)])

    def sizes(self, *numbers: int) -> str:
        """Make whole numbers an initializer: a shape, axes or pads."""
        return self.constant(f"sizes.{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def number(self, value: float) -> str:
        """Make a number an initializer."""
        return self.constant(f"number.{value!r}", np.array(value, np.float32))

    def reshaped(self, value: str, sizes: Sequence[int], output: str | None = None) -> str:
        """Reshape a value; the first axis is inferred. sizes: of the others."""
        return self.node("Reshape", value, self.sizes(-1, *sizes), output=output)


Write = Callable[[NetworkNodes, Node, Sequence[str], str], object]


def _plain(op: str, **names: str) -> Write:
    """Return a function that writes one ONNX node. names: ONNX's name of an attribute → ours."""

    def write(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
        to.node(op, *inputs, output=output, **{name: _attribute(node, ours) for name, ours in names.items()})

    return write


def _attribute(node: Node, name: str) -> Any:
    """Return an attribute; ONNX takes no whole number for a floating-point one."""
    value: Any = node.attributes[name]
    return float(value) if isinstance(OPERATORS[node.op].attributes[name], float) else value


def window(node: Node) -> dict[str, object]:
    """Return the ONNX attributes of a window that moves over a map, but its size."""
    found = {"strides": node.attributes["stride"], "pads": node.attributes["padding"]}
    return {**found, **({"dilations": node.attributes["dilation"]} if "dilation" in node.attributes else {})}


def _conv(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    weights = [to.tensor(node, role) for role in ("weight", "bias") if role in node.tensors]
    to.node("Conv", *inputs, *weights, output=output, group=node.attributes["groups"], **window(node))


def _linear(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    weights = [to.tensor(node, role) for role in ("weight", "bias") if role in node.tensors]
    as_rows(to, node, inputs[0], output, lambda x, out: to.node("Gemm", x, *weights, output=out, transB=1))


def as_rows(to: NetworkNodes, node: Node, value: str, output: str, product: Callable[[str, str | None], str]) -> None:
    """Write a linear layer over the last axis as a product of a matrix, which runtimes fuse with its bias."""
    outer = to.shapes[node.name][1:-1]
    if not outer:
        product(value, output)
        return
    outputs, inputs = node.tensors["weight"]
    to.reshaped(product(to.reshaped(value, (inputs,)), None), (*outer, outputs), output)


def _batch_norm(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    roles = (to.tensor(node, role) for role in ("weight", "bias", "running_mean", "running_var"))
    to.node("BatchNormalization", *inputs, *roles, output=output, epsilon=_attribute(node, "epsilon"))


def _layer_norm(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    roles = (to.tensor(node, role) for role in ("weight", "bias") if role in node.tensors)
    to.node("LayerNormalization", *inputs, *roles, output=output, axis=-1, epsilon=_attribute(node, "epsilon"))


def _constant(to: NetworkNodes, node: Node, _: Sequence[str], output: str) -> None:
    to.constant(output, to.tensors[node.tensor("value")])


def _silu(to: NetworkNodes, _: Node, inputs: Sequence[str], output: str) -> None:
    to.node("Mul", *inputs, to.node("Sigmoid", *inputs), output=output)


def _clip(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    to.node("Clip", *inputs, *(to.number(_attribute(node, end)) for end in ("low", "high")), output=output)


def _prelu(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    to.node("PRelu", *inputs, to.tensor(node, "slope"), output=output)


def _pool(op: str, **more: str) -> Write:
    def write(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
        own = {name: _attribute(node, ours) for name, ours in {"kernel_shape": "kernel", "ceil_mode": "ceil", **more}.items()}
        to.node(op, *inputs, output=output, **own, **window(node))

    return write


def is_global_mean(node: Node, shape: Shape) -> bool:
    """Return whether a node is the mean of each channel of a map. shape: of its input."""
    axes = node.attributes.get("axes", ())
    return node.op == "reduce_mean" and len(shape) == 4 and isinstance(axes, tuple) and {axis % 4 for axis in axes} == {2, 3}


def _reduce(op: str) -> Write:
    def write(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
        keep = node.attributes["keep"]
        if is_global_mean(node, to.shapes[node.inputs[0]]):
            # Runtimes have integers for this operator, and none for ReduceMean.
            mean = to.node("GlobalAveragePool", *inputs, output=output if keep else None)
            if not keep:
                to.reshaped(mean, to.shapes[node.name][1:], output)
            return
        axes = to.sizes(*_attribute(node, "axes"))
        to.node(op, *inputs, axes, output=output, keepdims=keep)

    return write


def _slice(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    whole = (to.sizes(_attribute(node, name)) for name in ("start", "end", "axis", "step"))
    to.node("Slice", *inputs, *whole, output=output)


def _pad(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    pads = _attribute(node, "pads")
    ends = to.sizes(0, *pads[::2], 0, *pads[1::2])
    to.node("Pad", *inputs, ends, to.number(_attribute(node, "value")), output=output)


def _reshape(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    to.reshaped(inputs[0], to.shapes[node.name][1:], output)


def _expand(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    factor, *others = to.shapes[node.name]
    # Sizes of 1 stay as they are, so a value keeps its own rows; a constant gets them from the input.
    rows = to.node("Mul", to.node("Shape", PIXELS, start=0, end=1), to.sizes(factor))
    to.node("Expand", *inputs, to.node("Concat", rows, to.sizes(*others), axis=0), output=output)


def _resize(to: NetworkNodes, node: Node, inputs: Sequence[str], output: str) -> None:
    coordinates = node.attributes["coordinates"]
    to.node(
        "Resize",
        *inputs,
        "",
        "",
        to.sizes(*_attribute(node, "size")),
        output=output,
        axes=(2, 3),
        mode=node.attributes["mode"],
        coordinate_transformation_mode=coordinates,
        nearest_mode="floor" if coordinates == "asymmetric" else "round_prefer_floor",
    )


ONNX: Mapping[str, Write] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "constant": _constant,
    "add": _plain("Add"),
    "sub": _plain("Sub"),
    "mul": _plain("Mul"),
    "div": _plain("Div"),
    "pow": _plain("Pow"),
    "minimum": _plain("Min"),
    "maximum": _plain("Max"),
    "matmul": _plain("MatMul"),
    "relu": _plain("Relu"),
    "sigmoid": _plain("Sigmoid"),
    "hard_swish": _plain("HardSwish"),
    "tanh": _plain("Tanh"),
    "softplus": _plain("Softplus"),
    "softsign": _plain("Softsign"),
    "mish": _plain("Mish"),
    "silu": _silu,
    "erf": _plain("Erf"),
    "exp": _plain("Exp"),
    "log": _plain("Log"),
    "sqrt": _plain("Sqrt"),
    "reciprocal": _plain("Reciprocal"),
    "neg": _plain("Neg"),
    "abs": _plain("Abs"),
    "clip": _clip,
    "leaky_relu": _plain("LeakyRelu", alpha="slope"),
    "elu": _plain("Elu", alpha="alpha"),
    "hard_sigmoid": _plain("HardSigmoid", alpha="alpha", beta="beta"),
    "gelu": _plain("Gelu", approximate="approximate"),
    "prelu": _prelu,
    "softmax": _plain("Softmax", axis="axis"),
    "max_pool": _pool("MaxPool"),
    "average_pool": _pool("AveragePool", count_include_pad="count_padding"),
    "reduce_mean": _reduce("ReduceMean"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "concat": _plain("Concat", axis="axis"),
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": _plain("Transpose", perm="order"),
    "expand": _expand,
    "resize": _resize,
}
"""Operator of a network → what writes it. The names are those of OPERATORS."""
