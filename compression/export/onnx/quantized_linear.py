"""Writes the linear layers of the schemes other than dynamic-int8 as ONNX nodes.

`quantize_graph` finds the layers.
static-int8, standard operators; ONNX Runtime fuses each layer to QGemm, with integer products. It does so only if the bias
is an integer tensor too:

    q = QuantizeLinear(x, s_x, z)                                     uint8, shared by layers of the same input and range
    y = Gemm(DequantizeLinear(q, s_x, z), DequantizeLinear(W_int8, s_w, axis 1), DequantizeLinear(b_int32, s_x · s_w))

weight-only-int8, standard operators:

    y = Gemm(x, Cast(W_int8) · s_w, b)

ONNX Runtime computes the weight when it opens the file (constant folding). From then on the layer costs as much as in
float32. With DequantizeLinear instead of Cast and Mul, ONNX Runtime would fuse the layer to MatMulNBits and round the
activations to 8 bits too (session.qdq_matmulnbits_accuracy_level, 4 by default). This would differ from the trained model.

weight-only-int4, com.microsoft's MatMulNBits, which keeps 4 bits both in memory and on disk. The standard has 4-bit integers
from opset 21 on, but ONNX Runtime fuses its form with rounded activations again; here accuracy_level 1 means float32.
"""

import numpy as np
from onnx import TensorProto
from torch import Tensor

from compression.export.onnx.graph_builder import Array, Nodes
from compression.models.linear_layers import matrix
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.static_int8 import StaticLinear, static_weights
from compression.quantization.weight_only import WeightOnlyLinear, grouped_integers

MICROSOFT = "com.microsoft"
FLOAT32 = 1  #: MatMulNBits' accuracy_level
BITS, MIDDLE = 4, 8  #: MatMulNBits takes unsigned integers and subtracts 8 by default


def static_linear(
    to: Nodes, x: str, name: str, layer: StaticLinear, _bias: str | None = None, output: str | None = None
) -> str:
    """Write a static-int8 layer, with an integer bias of its own: x (rows, in) -> (rows, out)."""
    scale, zero = layer.grid()
    whole, scales, bias = static_weights(matrix(layer), layer.bias, scale, layer.levels)
    weight = to.node(
        "DequantizeLinear",
        to.constant(f"{name}.weight_int8", whole.numpy().T),
        to.constant(f"{name}.weight_scale", scales.numpy()),
        # Without them nothing is fused. Each layer needs its own: session.x64quantprecision moves shared ones twice and fails.
        to.constant(f"{name}.weight_zero_points", np.zeros(len(whole), np.int8)),
        axis=1,
    )
    inputs = [to.dequantized(x, scale, zero), weight]
    if bias is not None:
        units = to.constant(f"{name}.bias_scale", (scale * scales).numpy())
        inputs.append(to.node("DequantizeLinear", to.constant(f"{name}.bias_int32", bias.numpy()), units, axis=0))
    return to.node("Gemm", *inputs, output=output)


def weight_only_int8(to: Nodes, x: str, name: str, layer: WeightOnlyLinear, bias: str | None, output: str | None = None) -> str:
    """Write a layer with weights in int8: x (rows, in) -> (rows, out)."""
    whole, scale = integer_rows(matrix(layer))
    cast = to.node("Cast", to.constant(f"{name}.weight_int8", whole.numpy().T), to=TensorProto.FLOAT)
    weight = to.node("Mul", cast, to.constant(f"{name}.weight_scale", scale.numpy()[:, 0]))
    return to.node("Gemm", x, weight, *([] if bias is None else [bias]), output=output)


def weight_only_int4(to: Nodes, x: str, name: str, layer: WeightOnlyLinear, bias: str | None, output: str | None = None) -> str:
    """Write a layer with weights in int4: x (rows, in) -> (rows, out)."""
    assert layer.group_size is not None, "int4 has groups"  # noqa: S101
    whole, scales = grouped_integers(matrix(layer), layer.group_size)
    packed = to.constant(f"{name}.weight_int4", _packed(whole, layer.group_size))
    product = to.node(
        "MatMulNBits",
        x,
        packed,
        to.constant(f"{name}.weight_scale", scales.numpy()),
        output=output if bias is None else None,
        domain=MICROSOFT,
        K=matrix(layer).shape[1],
        N=matrix(layer).shape[0],
        bits=BITS,
        block_size=layer.group_size,
        accuracy_level=FLOAT32,
    )
    return product if bias is None else to.node("Add", product, bias, output=output)


def _packed(whole: Tensor, group_size: int) -> Array:
    """Pack two 4-bit integers per byte, the first in the low half. (out, groups × size) -> uint8 (out, groups, size / 2)."""
    moved = (whole.numpy() + MIDDLE).astype(np.uint8).reshape(len(whole), -1, group_size)
    packed: Array = moved[..., 0::2] | moved[..., 1::2] << BITS
    return packed
