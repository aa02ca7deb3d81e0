"""Turn an FP32 ONNX graph into integers as `numerics` defines them: dynamic-int8 and embeddings here, the rest in `schemes`.

In dynamic-int8, with operators of the ONNX standard alone, a linear layer y = x·Wᵀ + b over rows x becomes

    s = max(max|x| / 127, tiny)                     one scale per row
    q = QuantizeLinear(x, s, zero point 128)        uint8, because u8 × s8 is what processors have instructions for
    a = MatMulInteger(q, W_int8, zero point 128)    exact integers
    y = DequantizeLinear(a, s) · w + b              s per row, w per column

and in every scheme an embedding becomes int8 rows, gathered together with their scales. QuantizeLinear with one scale per
row divides, rounds half to even, adds 128 and narrows in one pass over memory; DequantizeLinear does the same on the way
back. Layers that read the same tensor share one quantization of it.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compression import numerics
from compression.export.schemes import MICROSOFT, static_linear, weight_only_linear
from compression.numerics import StaticLinear, WeightOnlyLinear

Array = npt.NDArray[np.generic]
ZERO_POINT = 128


class _Surgeon:
    """One pass over a graph in topological order: copies nodes to a new list, replacing linear layers and embeddings."""

    def __init__(self, proto: onnx.ModelProto, modules: Mapping[str, nn.Module]) -> None:
        self.graph = proto.graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.names = _named_weights(modules)
        self.done: set[str] = set()
        self.quantized: dict[str, tuple[str, str]] = {}
        self.ranged: dict[tuple[str, float, int], str] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def constant(self, name: str, value: Array) -> str:
        """Make `value` an initializer, once a name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """Append a node with one output; return the output's name."""
        label = f"int8_{op}_{len(self.nodes)}"
        result = output or label
        self.nodes.append(helper.make_node(op, list(inputs), [result], name=label, **attributes))
        return result

    def module_of(self, initializer: str) -> tuple[str, nn.Module] | None:
        """Find the layer whose weight an initializer holds, as it is or transposed."""
        tensor = self.initializers.get(initializer)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
            return None
        value = numpy_helper.to_array(tensor)
        return self.names.get(_fingerprint(value)) or self.names.get(_fingerprint(value.T))

    def rows(self, x: str) -> tuple[str, str]:
        """Quantize (rows, features) to uint8 of the same shape and scales (rows,)."""
        if x not in self.quantized:
            last = self.constant("int8.last_axis", np.array([-1], np.int64))
            largest = self.node("ReduceMax", self.node("Abs", x), last, keepdims=0)
            levels = self.constant("int8.levels", np.array(numerics.LEVELS, np.float32))
            tiny = self.constant("int8.smallest_scale", np.array(numerics.SMALLEST_SCALE, np.float32))
            scales = self.node("Max", self.node("Div", largest, levels), tiny)
            zero = self.constant("int8.zero_point_row", np.array([ZERO_POINT], np.uint8))
            zeros = self.node("Expand", zero, self.node("Shape", scales))
            self.quantized[x] = self.node("QuantizeLinear", x, scales, zeros, axis=0), scales
        return self.quantized[x]

    def dequantized(self, x: str, scale: float, zero: int) -> str:
        """Round x to a static range and back, once for all who ask for the same."""
        if (x, scale, zero) not in self.ranged:
            number = len(self.ranged)
            units = self.constant(f"int8.range_{number}_scale", np.array(scale, np.float32))
            zeros = self.constant(f"int8.range_{number}_zero_point", np.array(zero, np.uint8))
            rounded = self.node("QuantizeLinear", x, units, zeros)
            self.ranged[x, scale, zero] = self.node("DequantizeLinear", rounded, units, zeros)
        return self.ranged[x, scale, zero]

    def linear(self, x: str, name: str, module: nn.Module, bias: str | None, output: str) -> None:
        """Write x·Wᵀ + b as the module computes: x (rows, in) -> output (rows, out). Not simulated, it becomes dynamic-int8."""
        if isinstance(module, StaticLinear):
            static_linear(self, x, name, module, output)
        elif isinstance(module, WeightOnlyLinear):
            weight_only_linear(self, x, name, module, bias, output)
        else:
            self.dynamic_linear(x, name, module, bias, output)

    def dynamic_linear(self, x: str, name: str, module: nn.Module, bias: str | None, output: str) -> None:
        """Write x·Wᵀ + b in dynamic-int8."""
        integers, scale = numerics.integers(numerics.matrix(module))
        q, scales = self.rows(x)
        accumulated = self.node(
            "MatMulInteger",
            q,
            self.constant(f"{name}.weight_int8", integers.numpy().T),
            self.constant("int8.zero_point", np.array(ZERO_POINT, np.uint8)),
        )
        by_row = self.node("DequantizeLinear", accumulated, scales, axis=0)
        by_column = self.constant(f"{name}.weight_scale", scale.numpy()[:, 0])
        if bias is None:
            self.node("Mul", by_row, by_column, output=output)
        else:
            self.node("Add", self.node("Mul", by_row, by_column), bias, output=output)

    def embedding(self, name: str, module: nn.Module, ids: str, output: str) -> None:
        """Write the look-up of int8 rows and their scales."""
        weight = module.weight
        assert isinstance(weight, torch.Tensor)  # noqa: S101
        integers, scale = numerics.integers(weight)
        rows = self.node("Gather", self.constant(f"{name}.weight_int8", integers.numpy()), ids)
        scales = self.node("Gather", self.constant(f"{name}.weight_scale", scale.numpy()), ids)
        self.node("Mul", self.node("Cast", rows, to=TensorProto.FLOAT), scales, output=output)

    def operate(self) -> None:
        """Replace all; raises RuntimeError where a layer was not found."""
        skipped: set[str] = set()
        for node in self.graph.node:
            if node.output[0] in skipped:
                continue
            found = self.module_of(node.input[0 if node.op_type == "Gather" else 1]) if len(node.input) > 1 else None
            if found is None or node.op_type not in ("MatMul", "Gemm", "Gather"):
                self.nodes.append(node)
                continue
            name, module = found
            if node.op_type == "Gather":
                self.embedding(name, module, node.input[1], node.output[0])
            elif node.op_type == "Gemm":
                self.linear(node.input[0], name, module, node.input[2] if len(node.input) > 2 else None, node.output[0])
            else:
                bias, output = self.bias_after(node)
                self.linear(node.input[0], name, module, bias, output)
                skipped.add(output)
            self.done.add(name)
        missed = {name for name, _ in self.names.values()} - self.done
        if missed:
            raise RuntimeError(f"not found in the traced graph: {', '.join(sorted(missed))}")

    def bias_after(self, node: onnx.NodeProto) -> tuple[str | None, str]:
        """Return the constant that is added right after a MatMul, if so, and the name of the sum."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) == 1 and readers[0].op_type == "Add":
            other = [name for name in readers[0].input if name != node.output[0]]
            if len(other) == 1 and other[0] in self.initializers:
                return other[0], readers[0].output[0]
        return None, node.output[0]


def to_int8(proto: onnx.ModelProto, modules: Mapping[str, nn.Module]) -> onnx.ModelProto:
    """Return `proto` with the linear layers and embeddings in `modules` (name → layer, weights in FP32) as integers.

    Each layer is written as its own class computes, a plain nn.Linear as dynamic-int8. proto: a graph whose linear layers
    read matrices (`rows.as_rows`).

    Raises RuntimeError where the graph does not hold one of them.
    """
    surgeon = _Surgeon(proto, modules)
    surgeon.operate()
    used = {name for node in surgeon.nodes for name in node.input}
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    del out.graph.node[:], out.graph.initializer[:], out.graph.value_info[:]
    out.graph.node.extend(surgeon.nodes)
    out.graph.initializer.extend(tensor for name, tensor in surgeon.initializers.items() if name in used)
    if any(node.domain == MICROSOFT for node in surgeon.nodes):
        out.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return out


def _fingerprint(value: Array) -> tuple[tuple[int, ...], bytes]:
    return value.shape, np.ascontiguousarray(value).tobytes()


def _named_weights(modules: Mapping[str, nn.Module]) -> dict[tuple[tuple[int, ...], bytes], tuple[str, nn.Module]]:
    """Index layers by their weight's content: the exporter renames and transposes weights, but does not change them."""
    out = {}
    for name, module in modules.items():
        out[_fingerprint(numerics.matrix(module).detach().numpy())] = (name, module)
    return out
