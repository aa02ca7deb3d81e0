"""The simulated integers of networks with drawn weights, and what ONNX Runtime makes of their files."""

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from compression.export.onnx.graph_builder import Array
from compression.export.onnx.network_integers import integer_graph
from compression.models.adapters.network.module import NetworkForImageClassification
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, ranged_inputs, simulation_of
from compression.quantization.observers import Spread, range_of
from compression.schema.recipe.base import Observer
from compression.schema.schemes import SCHEMES


def pixels(model: NetworkForImageClassification, rows: int = 16, seed: int = 1) -> Tensor:
    """Draw images. -> (rows, channels, height, width)"""
    return torch.randn(rows, *model.config.network.shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def simulated(
    model: NetworkForImageClassification,
    scheme: str,
    images: Tensor,
    *,
    portable: bool = True,
    observer: Observer = "min-max",
    symmetric: bool = False,
) -> NetworkForImageClassification:
    """Return a copy that simulates integers, with ranges of what the images show."""
    twin = copy.deepcopy(model)
    spreads = {name: Spread() for name in ranged_inputs(twin, scheme)}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: spreads[name].add(given[0]))
        for name, module in ranged_inputs(twin, scheme).items()
    ]
    twin(images)
    for hook in hooks:
        hook.remove()
    asked = Simulation(
        scheme=scheme,
        group_size=16 if SCHEMES[scheme].grouped else None,
        ranges={name: range_of(spread, observer, 99.99, around_zero=symmetric) for name, spread in spreads.items()},
        portable=portable and SCHEMES[scheme].rounds_activations,
        symmetric=symmetric,
    )
    insert_fake_quantization(twin, simulation=asked)
    return twin


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether each output channel reads one input channel of its own."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels


def largest_pair(channel: Array) -> int:
    """Return the largest sum of two neighbours of one sign among a channel's integers, (in, height, width).

    Pairs are of input channels at one place, and those of all places in a row.
    """
    places = np.moveaxis(channel, 0, -1)
    found = 0
    for rows in (places.reshape(-1, places.shape[-1]), places.reshape(1, -1)):
        pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(-1, 2)
        found = max(found, int(np.maximum(pairs, 0).sum(axis=1).max()), int(np.maximum(-pairs, 0).sum(axis=1).max()))
    return found


def tensors_of(model: NetworkForImageClassification) -> dict[str, object]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def integer_file(model: NetworkForImageClassification) -> onnx.ModelProto:
    """Return the ONNX graph of a simulated network."""
    simulation = simulation_of(model)
    assert simulation is not None
    return integer_graph(model, tensors_of(model), simulation)


def session(proto: onnx.ModelProto, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """Open a graph; write what ONNX Runtime makes of it to a file if one is named."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(proto: onnx.ModelProto, images: Tensor) -> Tensor:
    """Run a graph in ONNX Runtime. -> logits"""
    return torch.from_numpy(session(proto).run(None, {"pixel_values": images.numpy()})[0])


def fused(proto: onnx.ModelProto, place: Path) -> Counter[str]:
    """Return how many operators of each kind ONNX Runtime runs."""
    session(proto, place / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(place / "optimized.onnx").graph.node)
