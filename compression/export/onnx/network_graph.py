"""Writes a network's graph and tensors as an ONNX graph: pixel_values (batch, channels, height, width) -> logits.

Batch normalizations are folded into the layers before them (`models.networks.folding`). What remains beside a convolution, its
ReLU or sum, ONNX Runtime fuses when it opens the file. All operators are of the standard's opset 20.
"""

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from compression.export.onnx.decoder_graph import IR
from compression.export.onnx.graph_builder import BLOCKS, Array
from compression.export.onnx.network_operators import LOGITS, PIXELS, NetworkNodes
from compression.export.onnx.trace import OPSET
from compression.models.networks.folding import folded
from compression.models.networks.graph import Graph


def float_graph(graph: Graph, tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """Return the ONNX graph in float32. tensors: all of the graph's, by name."""
    return written(NetworkNodes(*folded(graph, tensors)))


def written(to: NetworkNodes) -> onnx.ModelProto:
    """Write all nodes of a network; return the model."""
    for node in to.graph.used():
        to.add(node)
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])]
        for name, shape in ((PIXELS, to.graph.shape), (LOGITS, to.shapes[to.graph.output][1:]))
    )
    whole = helper.make_graph(to.nodes, "network", inputs, outputs, list(to.initializers.values()))
    opset, ir = BLOCKS if to.has_blocks else (OPSET, IR)
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in to.nodes} - {""})]
    return helper.make_model(whole, opset_imports=opsets, ir_version=ir)
