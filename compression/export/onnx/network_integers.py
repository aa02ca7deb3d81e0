"""Writes a network that simulates integers as an ONNX graph that computes with them.

Where a value is rounded (`models.networks.rounded_values`), the file has a pair of standard operators,

    DequantizeLinear(QuantizeLinear(x, s_x, z), s_x, z)               uint8, one pair for all readers of x

and between such pairs ONNX Runtime computes with integers: convolutions become QLinearConv, linear layers QGemm, sums, products
and concatenations their QLinear forms, and maximum pools and reshapes pass uint8 on. A convolution reads

    Conv(x, DequantizeLinear(W_int8, s_w, axis 0), DequantizeLinear(b_int32, s_x · s_w))

A ReLU or a clip before a pair is left out if the range's ends do the same. Linear layers of the other schemes are written as
everywhere (`quantized_linear`); convolutions without rounded inputs read Cast(W_int8) · s_w.

A symmetric simulation has pairs of int8 with zero point 0, and biases b_int32 · s_x · s_w in float32: TensorRT dequantizes no
int32, and ONNX Runtime finds the same integers again. A ReLU then stays before its pair, and ONNX Runtime computes such a
convolution in floating point.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.export.onnx.graph_builder import Array
from compression.export.onnx.network_graph import written
from compression.export.onnx.network_operators import LOGITS, ONNX, NetworkNodes, as_rows, window
from compression.export.onnx.softmax import spelled_out
from compression.models.networks.folding import folded, folds
from compression.models.networks.graph import INPUT, Graph, Node
from compression.models.networks.rounded_values import CALCULATED, JOINED, LAYERS, rounding
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.fake_quantize import Simulation
from compression.quantization.rounded_network import RoundedValue, SimulatedConv
from compression.quantization.static_int8 import TOP, codes, static_weights
from compression.schema.schemes import SCHEMES

Grid = tuple[float, int]  #: scale and zero point


def integer_graph(model: PreTrainedModel, tensors: Mapping[str, Array], simulation: Simulation) -> onnx.ModelProto:
    """Return the ONNX graph of a network with simulated integers. tensors: the network's, by name; simulation: the model's own.

    Raises RuntimeError if the model simulates none.
    """
    graph: Graph = model.config.network
    to = IntegerNodes(*folded(graph, tensors, ("conv",)), model, folds(graph, ("conv",)), symmetric=simulation.symmetric)
    proto = written(to)
    return spelled_out(proto) if simulation.portable else proto


class IntegerNodes(NetworkNodes):
    """Nodes that compute with integers. norms: layer → BatchNorm that was folded into it, whose value the layer's is now.

    symmetric: write int8 with zero point 0, and rounded biases in float32.
    """

    def __init__(
        self, graph: Graph, tensors: Mapping[str, Array], model: nn.Module, norms: Mapping[str, str], *, symmetric: bool
    ) -> None:
        super().__init__(graph, tensors)
        self.model, self.plan, self.readers, self.symmetric = model, rounding(graph), graph.readers(), symmetric
        values: Mapping[str, nn.Module] = model.values  # type: ignore[assignment]
        self.grids: dict[str, Grid] = {}
        for name in (INPUT, *(node.name for node in graph.nodes)):
            if (own := norms.get(name, name)) in values and isinstance(value := values[own], RoundedValue):
                self.grids[name] = value.grid()
        self.integers: dict[str, str] = {}
        self.wanted = self._wanted()
        self._round(INPUT)

    def _wanted(self) -> set[str]:
        """Return the values that integer operators read."""
        found: set[str] = set()
        for node in reversed(tuple(self.graph.used())):
            passes = node.name in found and self.plan.ranges.get(node.name) != node.name
            if node.op in LAYERS or passes or (node.op in CALCULATED and node.name in self.grids):
                found.update(node.inputs)
        return found

    def grid_of(self, value: str) -> Grid | None:
        """Return the grid on which a value lies as its reader sees it; None if it is not rounded."""
        return self.grids.get(self.plan.ranges.get(value, value))

    def add(self, node: Node) -> None:
        """Write a node whose inputs are written, and the pair behind it."""
        name = node.name
        inputs = [self.integers.get(each, self.names[each]) if node.op in LAYERS else self.names[each] for each in node.inputs]
        if self._is_the_ranges(node):
            self.names[name] = inputs[0]
        else:
            paired = name in self.grids and name in self.plan.made
            self.names[name] = LOGITS if name == self.graph.output and not paired else f"{name}:0"
            writers = {"conv": self._conv, "linear": self._linear}
            if node.op in writers:
                writers[node.op](node, inputs[0], self.names[name])
            else:
                ONNX[node.op](self, node, inputs, self.names[name])
        self._round(name)

    def _round(self, value: str) -> None:
        """Write the pair of a value if its readers need one."""
        grid = self.grid_of(value)
        if grid is None or not (value in self.grids or value in self.wanted):
            return
        everywhere = value not in self.plan.read
        output = LOGITS if everywhere and value == self.graph.output else None
        self.integers[value] = self.dequantized(self.names[value], *grid, output=output, signed=self.symmetric)
        if everywhere:
            self.names[value] = self.integers[value]

    def _is_the_ranges(self, node: Node) -> bool:
        """Return whether a ReLU or clip does what saturating its rounded value does."""
        only_rounded = node.name in self.plan.made or all(reader.op in LAYERS for reader in self.readers.get(node.name, ()))
        if node.op not in JOINED or node.name not in self.grids or not only_rounded or node.name == self.graph.output:
            return False
        ends = (0.0, torch.inf) if node.op == "relu" else (node.attributes["low"], node.attributes["high"])
        return codes(torch.tensor(ends), *self.grids[node.name]).tolist() == [0, TOP]

    def _conv(self, node: Node, x: str, output: str) -> None:
        layer = self.model.get_submodule(node.name)
        if not isinstance(layer, SimulatedConv):
            raise RuntimeError(f"{node.name} does not simulate integers, whose ranges would be the file's")
        more = {"group": node.attributes["groups"], **window(node)}
        self.node("Conv", x, *self._weights(node, layer.row_levels()), output=output, **more)

    def _linear(self, node: Node, x: str, output: str) -> None:
        layer = self.model.get_submodule(node.name)
        if self.grid_of(node.inputs[0]) is not None and SCHEMES[layer.scheme].calibrated:  # type: ignore[index]
            weights = self._weights(node, layer.levels)  # type: ignore[arg-type]
            as_rows(self, node, x, output, lambda rows, made: self.node("Gemm", rows, *weights, output=made, transB=1))
            return
        bias = self.tensor(node, "bias") if "bias" in node.tensors else None
        as_rows(self, node, x, output, lambda rows, made: self.linear(rows, node.name, layer, bias, made))

    def _weights(self, node: Node, levels: float | Tensor) -> Sequence[str]:
        """Write a layer's weight and bias, with one scale per output channel; return their names."""
        name, weight = node.name, torch.from_numpy(self.tensors[node.tensor("weight")])
        rows, bias = weight.flatten(1), self.tensors.get(node.tensor("bias"))
        if (grid := self.grid_of(node.inputs[0])) is None:
            whole, scales = integer_rows(rows, levels)
            cast = self.node("Cast", self.constant(f"{name}.weight_int8", whole.view_as(weight).numpy()), to=TensorProto.FLOAT)
            units = self.constant(f"{name}.weight_scale", scales.view(-1, *(1,) * (weight.ndim - 1)).numpy())
            return [self.node("Mul", cast, units), *([] if bias is None else [self.tensor(node, "bias")])]
        whole, scales, integers = static_weights(rows, None if bias is None else torch.from_numpy(bias), grid[0], levels)
        made = [
            self.node(
                "DequantizeLinear",
                self.constant(f"{name}.weight_int8", whole.view_as(weight).numpy()),
                self.constant(f"{name}.weight_scale", scales.numpy()),
                self.constant(f"{name}.weight_zero_points", np.zeros(len(whole), np.int8)),
                axis=0,
            )
        ]
        steps = grid[0] * scales
        if integers is not None and self.symmetric:
            made.append(self.constant(f"{name}.bias", (integers * steps).numpy()))
        elif integers is not None:
            stored = self.constant(f"{name}.bias_int32", integers.numpy())
            made.append(self.node("DequantizeLinear", stored, self.constant(f"{name}.bias_scale", steps.numpy()), axis=0))
        return made
