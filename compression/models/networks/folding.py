"""Folds batch normalizations into the convolution or linear layer before them (Jacob et al. 2018, section 3.2).

At inference a BatchNorm is y = s · x + (β − s · μ) with s = γ / √(σ² + ε), an affine map of each channel, so

    s · (W ∗ x + b) + (β − s · μ) = (s · W) ∗ x + (β + s · (b − μ))

Up to the order of floating-point operations nothing changes, and a node with its pass over memory goes. A BatchNorm stays if
something else reads the layer's output too, or if none of these layers is directly before it.
"""

from collections.abc import Collection, Mapping
from math import prod

import numpy as np
import numpy.typing as npt

from compression.models.networks.graph import Graph, Node
from compression.models.networks.value_shapes import value_shapes
from compression.schema.report.folding import Folding

Array = npt.NDArray[np.generic]


LAYERS = ("conv", "linear")
ACTIVATIONS = ("relu", "clip")
"""Operators that runtimes compute together with the convolution before them."""


def folds(graph: Graph, layers: Collection[str] = LAYERS) -> dict[str, str]:
    """Return layer → the BatchNorm that can be folded into it, in order. layers: operators to fold into, among LAYERS."""
    nodes, readers, shapes = {node.name: node for node in graph.nodes}, graph.readers(), value_shapes(graph)
    found: dict[str, str] = {}
    for node in graph.nodes:
        layer = nodes.get(node.inputs[0]) if node.op == "batch_norm" else None
        if layer is None or layer.op not in layers or layer.name == graph.output or len(readers[layer.name]) > 1:
            continue
        # A linear layer's outputs are its last axis, and channels are axis 1.
        if layer.op == "conv" or len(shapes[layer.name]) == 2:
            found[layer.name] = node.name
    return found


def folded(graph: Graph, tensors: Mapping[str, Array], layers: Collection[str] = LAYERS) -> tuple[Graph, dict[str, Array]]:
    """Return a graph without the BatchNorms that `folds` names, and its tensors; all others are those given.

    tensors: every tensor of the graph by name, float32. A layer keeps its name and its tensors' dtype; it gets a bias if it has
    none. Computed in float64.
    """
    pairs = folds(graph, layers)
    gone, nodes = {norm: layer for layer, norm in pairs.items()}, []
    values = {name: tensors[name] for node in graph.nodes if node.name not in gone for name in map(node.tensor, node.tensors)}
    for node in graph.nodes:
        if node.name in gone:
            continue
        inputs = tuple(gone.get(name, name) for name in node.inputs)
        shapes = dict(node.tensors)
        if node.name in pairs:
            values[node.tensor("weight")], values[node.tensor("bias")] = _folded(node, graph.named(pairs[node.name]), tensors)
            shapes["bias"] = shapes["weight"][:1]
        nodes.append(node.model_copy(update={"inputs": inputs, "tensors": shapes}))
    return Graph(shape=graph.shape, nodes=tuple(nodes), output=gone.get(graph.output, graph.output)), values


def _folded(layer: Node, norm: Node, tensors: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return weight and bias of a layer with its BatchNorm."""
    weight = tensors[layer.tensor("weight")]
    gamma, beta, mean, variance = (
        tensors[norm.tensor(role)].astype(np.float64) for role in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(variance + float(norm.attributes["epsilon"]))  # type: ignore[arg-type]  # a number in every BatchNorm
    bias = tensors[layer.tensor("bias")].astype(np.float64) if "bias" in layer.tensors else 0.0
    wide = weight.astype(np.float64) * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    return wide.astype(weight.dtype), (beta + factor * (bias - mean)).astype(weight.dtype)


def folding_of(graph: Graph) -> Folding | None:
    """Count what every ONNX file of a network does without; None if it has no batch normalization.

    A file of integers folds into convolutions alone, so that is what counts.
    """
    norms = sum(node.op == "batch_norm" for node in graph.nodes)
    pairs, readers = folds(graph, ("conv",)), graph.readers()
    elements = activations = 0
    for node in (each for each in graph.nodes if each.op == "conv"):
        if node.name in pairs:
            elements += sum(prod(shape) for shape in graph.named(pairs[node.name]).tensors.values())
            elements -= 0 if "bias" in node.tensors else node.tensors["weight"][0]
        behind = readers.get(pairs.get(node.name, node.name), ())
        activations += len(behind) == 1 and behind[0].op in ACTIVATIONS
    return Folding(norms=norms, folded=len(pairs), elements=elements, activations=activations) if norms else None
