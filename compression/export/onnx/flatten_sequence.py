"""Rewrites an ONNX graph so that hidden states outside of attention are rows, (batch × sequence, features).

ONNX Runtime's CPU kernels (1.32) want this: QuantizeLinear takes one scale per row only for a matrix, a matrix product with a
bias becomes one Gemm, and a residual sum of three dimensions is fused with its LayerNormalization to SkipLayerNormalization,
which takes five times as long as the two (202 µs against 37 for 128 × 384). The baseline gets the same form as the artifacts
that it is compared with.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

ROWWISE = (
    *("Add", "Gelu", "LayerNormalization", "MatMul", "Relu", "Tanh", "Mul", "Sigmoid", "Erf", "Div", "Pow"),
    *("ReduceMean", "Sqrt", "Reciprocal"),  # with Pow and Mul a decoder's RMSNorm
)
"""Operators that compute each row independently if their other inputs are constants of one row (for MatMul, a matrix)."""
STARTS = ("LayerNormalization", "Pow", "MatMul")
"""Operators whose three-dimensional hidden states are flattened to rows: those of norms, and linear layers."""


class _Flattener:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.shapes: dict[str, list[str | int]] = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in [*proto.graph.value_info, *proto.graph.output]
        }
        self.nodes: list[onnx.NodeProto] = []
        self.rows: dict[str, str] = {}
        self.restored: set[str] = set()
        ids = proto.graph.input[0]
        self.ids = ids.name
        self.leading = [dim.dim_param for dim in ids.type.tensor_type.shape.dim]

    def is_hidden(self, name: str) -> bool:
        """Return whether a tensor is (batch, sequence, features) with a known number of features."""
        shape = self.shapes.get(name, [])
        return len(shape) == 3 and shape[:2] == self.leading and isinstance(shape[2], int)

    def constant(self, name: str, values: list[int]) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def reshape(self, source: str, shape: str, output: str) -> None:
        self.nodes.append(helper.make_node("Reshape", [source, shape], [output], name=f"{output}_reshape"))

    def restore(self, name: str) -> None:
        """Restore a tensor's three dimensions for a node that needs them."""
        if name in self.rows and name not in self.restored:
            self.unflatten(self.rows[name], int(self.shapes[name][2]), self.ids, name)
            self.restored.add(name)

    def unflatten(self, rows: str, features: int, like: str, output: str, **dimensions: int) -> None:
        """Give rows the leading dimensions of another tensor. dimensions: attributes of its Shape."""
        only = self.constant(f"rows.only_{features}", [features])
        lengths, shape = f"{output}_lengths", f"{output}_shape"
        self.nodes.append(helper.make_node("Shape", [like], [lengths], name=lengths, **dimensions))
        self.nodes.append(helper.make_node("Concat", [lengths, only], [shape], name=shape, axis=0))
        self.reshape(rows, shape, output)

    def flat(self, node: onnx.NodeProto, inputs: list[str]) -> str:
        """Copy a node with other inputs; return its output, which is rows."""
        copy, output = onnx.NodeProto(), f"{node.output[0]}_rows"
        copy.CopyFrom(node)
        copy.input[:], copy.output[:] = inputs, [output]
        self.nodes.append(copy)
        return output

    def visit(self, node: onnx.NodeProto) -> None:
        if self.is_hidden(node.output[0]):
            width = int(self.shapes[node.output[0]][2])
            if node.op_type == "Reshape":
                if node.input[0] in self.rows:  # the width does not change
                    self.rows[node.output[0]] = self.rows[node.input[0]]
                else:
                    shape = self.constant(f"rows.of_{width}", [-1, width])
                    self.rows[node.output[0]] = self.flat(node, [node.input[0], shape])
                return
            if node.op_type in STARTS and self.is_hidden(node.input[0]) and node.input[0] not in self.rows:
                self.begin(node.input[0])
            if self.is_rowwise(node) and all(self.is_row_constant(name, node) or name in self.rows for name in node.input):
                self.rows[node.output[0]] = self.flat(node, [self.rows.get(name, name) for name in node.input])
                return
        if node.op_type == "MatMul" and self.is_linear(node) and len(self.shapes.get(node.input[0], ())) > 2:
            self.apart(node)
            return
        if node.op_type == "Reshape" and node.input[0] in self.rows and not self.copies_dimensions(node):
            node.input[0] = self.rows[node.input[0]]
        for name in node.input:
            self.restore(name)
        self.nodes.append(node)

    def is_linear(self, node: onnx.NodeProto) -> bool:
        """Return whether a MatMul multiplies by a constant matrix: a linear layer."""
        return node.input[1] in self.constants and len(self.constants[node.input[1]].dims) == 2

    def apart(self, node: onnx.NodeProto) -> None:
        """Flatten the input of a linear layer over more dimensions to rows. Its output gets these dimensions back."""
        (given, weight), output = node.input, node.output[0]
        self.restore(given)
        inputs, outputs = self.constants[weight].dims
        self.reshape(given, self.constant(f"rows.of_{inputs}", [-1, inputs]), f"{output}_given")
        self.unflatten(self.flat(node, [f"{output}_given", weight]), outputs, given, output, end=-1)

    def begin(self, name: str) -> None:
        width = int(self.shapes[name][2])
        self.reshape(name, self.constant(f"rows.of_{width}", [-1, width]), f"{name}_rows")
        self.rows[name] = f"{name}_rows"

    def is_rowwise(self, node: onnx.NodeProto) -> bool:
        """Return whether a node computes each row independently. A mean must be over the last axis alone and keep it."""
        if node.op_type != "ReduceMean":
            return node.op_type in ROWWISE
        axes = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
        return keeps and axes is not None and numpy_helper.to_array(axes).tolist() == [-1]

    def is_row_constant(self, name: str, node: onnx.NodeProto) -> bool:
        return name in self.constants and len(self.constants[name].dims) <= (2 if node.op_type == "MatMul" else 1)

    def copies_dimensions(self, node: onnx.NodeProto) -> bool:
        """Return whether a Reshape has a 0, which copies a dimension of the input; flattening changes those."""
        shape = self.constants.get(node.input[1])
        return shape is not None and bool((numpy_helper.to_array(shape) == 0).any())


def flatten_sequence(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of the same function and inputs, with hidden states as rows. Unknown nodes stay unchanged: the result is
    correct for every graph, and fast for encoders and decoders.
    """
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    work = _Flattener(out)
    for node in list(out.graph.node):
        work.visit(node)
    for value in out.graph.output:
        work.restore(value.name)
    used = {name for node in work.nodes for name in node.input}
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in work.nodes]
    del out.graph.node[:], out.graph.initializer[:], out.graph.value_info[:]
    out.graph.node.extend(nodes)
    out.graph.initializer.extend(tensor for name, tensor in work.constants.items() if name in used)
    return out
