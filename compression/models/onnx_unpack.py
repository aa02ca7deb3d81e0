"""Turn an uploaded ONNX file into a network's folder, if Lathe computes what ONNX Runtime computes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from compression.models.adapters.network.module import NetworkForImageClassification
from compression.models.network_folder import network_of, write_network
from compression.models.networks.onnx_reader import read_onnx
from compression.models.networks.onnx_reading.model_file import open_model
from compression.models.networks.untrained import constants_of
from compression.models.networks.value_shapes import value_shapes
from compression.models.validation.network import labels_of, onnx_file
from compression.schema.errors import DamagedCheckpoint, UnsupportedArchitecture

TOLERANCE = 1e-4
"""Of the logits, relative to the largest."""
ROWS = (1, 3)
LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators whose second input is a layer's weight."""


def unpack(folder: Path, place: Path, labels: Sequence[str] = ()) -> None:
    """Write the folder's only ONNX file as the complete folder `place`.

    Outputs without names in config.json have those of the data's `labels`, if there are as many. Raises what `read_onnx`
    raises, ConfigMismatch, and UnsupportedArchitecture if ONNX Runtime computes something else.
    """
    path = onnx_file(folder)
    graph, tensors = read_onnx(path)
    outputs = value_shapes(graph)[graph.output][-1]
    names = labels_of(folder, outputs) or (tuple(labels) if len(labels) == outputs else None)
    try:
        source = {"library": "onnx", "config": {}, "names": {}, "shared": shared_weights(path)}
        constants = constants_of(graph, tensors)
        source |= {"fixed": sorted(constants.fixed), "windows": constants.windows}
        model = network_of(graph, tensors, source, names)
    except ValueError as problem:
        raise UnsupportedArchitecture(f"{path.name}: {str(problem)[:500]}", param=path.name) from problem
    check_answers(model, path)
    write_network(model, place, folder)


def shared_weights(path: Path) -> int:
    """Return how many of a file's weights are read by several layers; each layer of the network has its own.

    Exporters store equal weights once, so what is shared on purpose cannot be told from what happens to be equal. Raises what
    `open_model` raises.
    """
    graph = open_model(path)[0].graph
    read = Counter(node.input[1] for node in graph.node if node.op_type in LAYERS and len(node.input) > 1)
    return sum(read[tensor.name] > 1 for tensor in graph.initializer)


@torch.no_grad()
def check_answers(model: NetworkForImageClassification, path: Path) -> None:
    """Compare a network with ONNX Runtime on random images. Raises UnsupportedArchitecture and DamagedCheckpoint."""
    draw = torch.Generator().manual_seed(0)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        for rows in ROWS:
            pixels = torch.randn(rows, *model.config.network.shape, generator=draw)
            (wanted,) = session.run(None, {given.name: pixels.numpy()})
            apart = float(np.abs(model(pixels).logits.numpy() - wanted).max())
            if not apart <= TOLERANCE * float(np.abs(wanted).max()):
                cause = f"{path.name}: ONNX Runtime's answers to {rows} random images differ from Lathe's by {apart:.3g}"
                raise UnsupportedArchitecture(
                    f"{cause}, of at most {float(np.abs(wanted).max()):.3g}",
                    param=path.name,
                    remedy="Export the network with a current exporter, in evaluation mode; else send us the file.",
                )
    except UnsupportedArchitecture:
        raise
    except Exception as problem:  # ONNX Runtime's exceptions have no common class
        raise DamagedCheckpoint(f"ONNX Runtime cannot run {path.name}: {str(problem)[:300]}", param=path.name) from problem
