"""Quantizes an FP32 ONNX graph with the schemes of `quantization`: finds the layers, which `graph_builder` writes."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compression.export.onnx.graph_builder import BLOCKS, Array, Nodes
from compression.export.onnx.quantized_linear import MICROSOFT
from compression.models.linear_layers import matrix


class _Surgeon(Nodes):
    """Copies a graph's nodes in topological order and replaces linear layers and embeddings."""

    def __init__(self, proto: onnx.ModelProto, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.graph = proto.graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        # By content: the exporter renames and transposes weights, but does not change them.
        self.names: dict[tuple[tuple[int, ...], bytes], list[tuple[str, nn.Module]]] = {}
        for name, layer in modules.items():
            self.names.setdefault(_fingerprint(matrix(layer).detach().numpy()), []).append((name, layer))
        self.done: set[str] = set()
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def module_of(self, initializer: str, *, looked_up: bool) -> tuple[str, nn.Module] | None:
        """Find the layer whose weight an initializer holds, as it is or transposed; of equal ones each in its turn."""
        tensor = self.initializers.get(initializer)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
            return None
        value = numpy_helper.to_array(tensor)
        equal = self.names.get(_fingerprint(value)) or self.names.get(_fingerprint(value.T))
        if equal is None:
            return None
        suited = [one for one in equal if isinstance(one[1], nn.Embedding) == looked_up] or equal
        return next((one for one in suited if one[0] not in self.done), suited[-1])

    def operate(self) -> None:
        """Replace all layers. Raises RuntimeError if a layer is not found."""
        skipped: set[str] = set()
        for node in self.graph.node:
            if node.output[0] in skipped:
                continue
            looked_up = node.op_type == "Gather"
            weight = node.input[0 if looked_up else 1] if len(node.input) > 1 else None
            found = self.module_of(weight, looked_up=looked_up) if weight is not None else None
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
        # Of equal layers that read one tensor the exporter makes one.
        missed = [equal[0][0] for equal in self.names.values() if not self.done & {name for name, _ in equal}]
        if missed:
            raise RuntimeError(f"not found in the traced graph: {', '.join(sorted(missed))}")

    def bias_after(self, node: onnx.NodeProto) -> tuple[str | None, str]:
        """Return (the constant added right after a MatMul, name of the sum), or (None, MatMul's output)."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) == 1 and readers[0].op_type == "Add":
            other = [name for name in readers[0].input if name != node.output[0]]
            if len(other) == 1 and other[0] in self.initializers:
                return other[0], readers[0].output[0]
        return None, node.output[0]


def to_int8(proto: onnx.ModelProto, modules: Mapping[str, nn.Module]) -> onnx.ModelProto:
    """Return `proto`, a graph whose linear layers read matrices (`flatten_sequence`), with its layers and embeddings as
    integers. modules: name → layer in FP32, each written as its own scheme computes it, a plain nn.Linear as dynamic-int8.
    Raises RuntimeError if the graph lacks one of them.
    """
    surgeon = _Surgeon(proto, modules)
    surgeon.operate()
    used = {name for node in surgeon.nodes for name in node.input}
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    del out.graph.node[:], out.graph.initializer[:], out.graph.value_info[:]
    out.graph.node.extend(surgeon.nodes)
    out.graph.initializer.extend(tensor for name, tensor in surgeon.initializers.items() if name in used)
    if surgeon.has_blocks:
        # For the operators of such a graph, opset 21 only changed the allowed types.
        out.opset_import[0].version, out.ir_version = BLOCKS
    if any(node.domain == MICROSOFT for node in surgeon.nodes):
        out.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return out


def _fingerprint(value: Array) -> tuple[tuple[int, ...], bytes]:
    return value.shape, np.ascontiguousarray(value).tobytes()
