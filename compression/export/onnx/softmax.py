"""Writes softmax as separate operators, so that AVX2 and AVX-512 compute the same numbers.

ONNX Runtime's Softmax sums a row in as many parts as a register holds: 16 with AVX-512, 8 with AVX2. The last digits differ,
which can round an activation to the neighbouring integer, and later layers amplify that. The operators here compute the same
bits on both (docs/decisions/0032). In attention the division comes after the product with the values, (e · V) / Σe, because
there is less to divide.
"""

from collections import Counter

import numpy as np
import onnx

from compression.export.onnx.graph_builder import Nodes


def exponentials(to: Nodes, scores: str, output: str | None = None) -> str:
    """Write exp(x - max x) over the last axis."""
    largest = to.node("ReduceMax", scores, _last_axis(to), keepdims=1)
    return to.node("Exp", to.node("Sub", scores, largest), output=output)


def divided(to: Nodes, values: str, weights: str, output: str | None = None) -> str:
    """Divide by the sum of `weights` over the last axis. values: the weights themselves, or their product with values."""
    return to.node("Div", values, to.node("ReduceSum", weights, _last_axis(to), keepdims=1), output=output)


def softmax(to: Nodes, scores: str, output: str | None = None) -> str:
    """Write softmax over the last axis."""
    weights = exponentials(to, scores)
    return divided(to, weights, weights, output)


def spelled_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same function with each Softmax over the last axis as separate operators. proto: of opset 18 or later."""
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    work = Nodes("softmax")
    readers = Counter(name for node in proto.graph.node for name in node.input)
    readers.update(value.name for value in proto.graph.output)
    whole = {node.output[0] for node in proto.graph.node if node.op_type == "Softmax" and _is_over_last(node)}
    products = {node.input[0] for node in proto.graph.node if node.op_type == "MatMul"}
    late = {name for name in whole & products if readers[name] == 1}
    for node in proto.graph.node:
        if node.output[0] in late:
            exponentials(work, node.input[0], node.output[0])
        elif node.output[0] in whole:
            softmax(work, node.input[0], node.output[0])
        elif node.op_type == "MatMul" and node.input[0] in late:
            divided(work, work.node("MatMul", *node.input), node.input[0], node.output[0])
        else:
            work.nodes.append(node)
    del out.graph.node[:]
    out.graph.node.extend(work.nodes)
    out.graph.initializer.extend(work.initializers.values())
    return out


def _last_axis(to: Nodes) -> str:
    return to.constant("softmax.last_axis", np.array([-1], np.int64))


def _is_over_last(node: onnx.NodeProto) -> bool:
    """Return whether a Softmax is over the last axis, given as −1: ranks are not always known."""
    return all(attribute.i == -1 for attribute in node.attribute if attribute.name == "axis")
