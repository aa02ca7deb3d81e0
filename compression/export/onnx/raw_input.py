"""Puts the arithmetic between a decoded row and a model's input into an ONNX file.

What stands before the model then is Transpose, Cast and at most Div, Sub and Div in float32, the operations of the reader
(`modalities.image.preprocessing.normalized`) in its order: with the usual scale of 1/255 the model's input has the same bits.
Values are transposed while they are a byte each. With integers, the model's own QuantizeLinear reads the result, and nothing is
rounded before it.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from compression.export.onnx.graph_builder import Nodes
from compression.modalities.modality import RawInput

NEUTRAL = {"Div": 1.0, "Sub": 0.0}


def with_raw_input(proto: onnx.ModelProto, raw: RawInput) -> onnx.ModelProto:
    """Return a graph that reads `raw.name`, uint8, in place of `raw.replaces`, which becomes a value. Raises KeyError."""
    made, to = onnx.ModelProto(), Nodes("raw")
    made.CopyFrom(proto)
    inputs = {one.name: one for one in made.graph.input}
    sizes = [size.dim_param or size.dim_value for size in inputs[raw.replaces].type.tensor_type.shape.dim]
    value = to.node("Transpose", raw.name, perm=raw.order)
    if raw.channels != tuple(sorted(raw.channels)):
        value = to.node("Gather", value, to.constant("raw.channels", np.array(raw.channels, np.int64)), axis=1)
    column = (-1, *(1,) * (len(sizes) - 2))
    asked = (("divisor", "Div", (raw.divisor,)), ("mean", "Sub", raw.mean), ("deviation", "Div", raw.deviation))
    steps = [each for each in asked if set(each[2]) != {NEUTRAL[each[1]]}]
    value = to.node("Cast", value, output=None if steps else raw.replaces, to=TensorProto.FLOAT)
    for number, (name, op, numbers) in enumerate(steps, 1):
        constant = to.constant(f"raw.{name}", np.array(numbers, np.float32).reshape(column))
        value = to.node(op, value, constant, output=raw.replaces if number == len(steps) else None)
    shape = [sizes[raw.order.index(axis)] for axis in range(len(sizes))]
    given = helper.make_tensor_value_info(raw.name, TensorProto.UINT8, shape)
    others = [one for name, one in inputs.items() if name != raw.replaces]
    nodes = [*to.nodes, *made.graph.node]
    del made.graph.input[:], made.graph.node[:]
    made.graph.input.extend([given, *others])
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(to.initializers.values())
    return made
