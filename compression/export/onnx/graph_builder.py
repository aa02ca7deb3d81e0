"""Builds ONNX graphs from nodes, constants and quantized layers. All writers of ONNX files share it.

In dynamic-int8, with operators of the ONNX standard alone, a linear layer y = x·Wᵀ + b over rows x becomes

    s = max(max|x| / 127, tiny)                     one scale per row, (rows, 1)
    q = QuantizeLinear(x, s, zero point 128)        uint8, because processors have instructions for u8 × s8
    a = MatMulInteger(q, W_int8, zero point 128)    exact integers
    y = DequantizeLinear(a, s) · w + b              s per row, w per column

A row is one block of opset 21's QuantizeLinear (`block_size`). One scale along axis 0 means the same at the same speed, but
if the number of rows is free, OpenVINO misreads it: it fails on some lengths and computes wrong results on others. OpenVINO
reports that it cannot convert blocks, or, once shapes are fixed, reads them correctly
(docs/decisions/0029-what-openvino-reads.md).

In every scheme an embedding becomes int8 rows, gathered together with their scales. QuantizeLinear with one scale per row
divides, rounds half to even, adds 128 and narrows in one pass over memory; DequantizeLinear does the reverse, also in one
pass. Layers that read the same tensor share one quantization of it.
"""

from pkgutil import resolve_name

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compression.models.linear_layers import matrix
from compression.quantization.dynamic_int8 import LEVELS, SMALLEST_SCALE, SimulatedLinear, integer_rows, levels_of
from compression.quantization.fake_quantize import DYNAMIC
from compression.schema.schemes import SCHEMES

Array = npt.NDArray[np.generic]
ZERO_POINT = 128
HUGE = 1e30  #: A unit in which every scale rounds to 0. 255 units still fit in a float32: OpenVINO multiplies them.
BLOCKS = (21, 10)  #: opset and IR version of files with blocks, for ONNX Runtime 1.20 and later


class Nodes:
    """Nodes in order, constants by name, and each tensor's quantized form. label: prefix of the nodes' names."""

    def __init__(self, label: str = "int8") -> None:
        self.label = label
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.quantized: dict[str, tuple[str, str]] = {}
        self.ranged: dict[tuple[str, float, int], str] = {}

    def constant(self, name: str, value: Array) -> str:
        """Make `value` an initializer, once per name; a number becomes a tensor of one."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, name: str, value: Array) -> str:
        """Make a number an initializer without axes: in another form ONNX Runtime fuses no sum to QLinearAdd."""
        self.initializers.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """Append a node with one output; return the output's name."""
        label = f"{self.label}_{op}_{len(self.nodes)}"
        result = output or label
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=label, **attributes))
        return result

    def rows(self, x: str, features: int) -> tuple[str, str]:
        """Quantize (rows, features) to uint8 of the same shape and scales (rows,)."""
        if x not in self.quantized:
            last = self.constant("int8.last_axis", np.array([-1], np.int64))
            largest = self.node("ReduceMax", self.node("Abs", x), last, keepdims=1)
            levels = self.constant("int8.levels", np.array(LEVELS, np.float32))
            tiny = self.constant("int8.smallest_scale", np.array(SMALLEST_SCALE, np.float32))
            scales = self.node("Max", self.node("Div", largest, levels), tiny)
            whole = self.node("QuantizeLinear", x, scales, self.zero_points(scales), axis=1, block_size=features)
            self.quantized[x] = whole, self.node("Squeeze", scales, last)
        return self.quantized[x]

    def zero_points(self, scales: str) -> str:
        """Write a zero point for each scale, (rows, 1) uint8."""
        # One operator, where Shape and Expand are two.
        zero = self.constant("int8.zero_point", np.array(ZERO_POINT, np.uint8))
        return self.node("QuantizeLinear", scales, self.constant("int8.huge", np.array(HUGE, np.float32)), zero)

    @property
    def has_blocks(self) -> bool:
        """Whether the graph needs the opset of BLOCKS."""
        return bool(self.quantized)

    def dequantized(self, x: str, scale: float, zero: int, output: str | None = None, *, signed: bool = False) -> str:
        """Quantize x to a static range and dequantize it, once for each tensor and range.

        signed: store int8, of which the zero point is 128 less.
        """
        if (x, scale, zero) not in self.ranged:
            number = len(self.ranged)
            units = self.scalar(f"int8.range_{number}_scale", np.array(scale, np.float32))
            point = np.array(zero - ZERO_POINT, np.int8) if signed else np.array(zero, np.uint8)
            zeros = self.scalar(f"int8.range_{number}_zero_point", point)
            rounded = self.node("QuantizeLinear", x, units, zeros)
            self.ranged[x, scale, zero] = self.node("DequantizeLinear", rounded, units, zeros, output=output)
        return self.ranged[x, scale, zero]

    def linear(self, x: str, name: str, module: nn.Module, bias: str | None, output: str | None = None) -> str:
        """Write x·Wᵀ + b as the module computes it, by default in dynamic-int8: x (rows, in) -> (rows, out)."""
        scheme = SCHEMES[module.scheme if isinstance(module, SimulatedLinear) else DYNAMIC.scheme]
        written: str = resolve_name(scheme.onnx)(self, x, name, module, bias, output)
        return written

    def dynamic_linear(self, x: str, name: str, module: nn.Module, bias: str | None, output: str | None = None) -> str:
        """Write x·Wᵀ + b in dynamic-int8."""
        integers, scale = integer_rows(matrix(module), levels_of(module))
        stored = self.constant(f"{name}.weight_int8", integers.numpy().T)
        return self.integer_product(x, stored, self.constant(f"{name}.weight_scale", scale.numpy()[:, 0]), bias, output)

    def integer_product(self, x: str, weight: str, scale: str, bias: str | None = None, output: str | None = None) -> str:
        """Multiply in integers: x (rows, in), weight int8 (in, out), scale (out,) -> (rows, out)."""
        q, scales = self.rows(x, self.initializers[weight].dims[0])
        zero = self.constant("int8.zero_point", np.array(ZERO_POINT, np.uint8))
        by_row = self.node("DequantizeLinear", self.node("MatMulInteger", q, weight, zero), scales, axis=0)
        if bias is None:
            return self.node("Mul", by_row, scale, output=output)
        return self.node("Add", self.node("Mul", by_row, scale), bias, output=output)

    def embedding(self, name: str, module: nn.Module, ids: str, output: str | None = None) -> str:
        """Write the lookup of int8 rows and their scales."""
        integers, scale = integer_rows(matrix(module), levels_of(module))
        rows = self.node("Gather", self.constant(f"{name}.weight_int8", integers.numpy()), ids)
        scales = self.node("Gather", self.constant(f"{name}.weight_scale", scale.numpy()), ids)
        return self.node("Mul", self.node("Cast", rows, to=TensorProto.FLOAT), scales, output=output)
