"""Small ONNX files made by hand, and what a network that was read from one answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from compression.models.adapters.network.module import NetworkConfig, NetworkForImageClassification
from compression.models.networks.graph import Graph

Arrays = dict[str, np.ndarray[Any, Any]]


def proto(
    nodes: Sequence[onnx.NodeProto],
    weights: Arrays | None = None,
    shape: Sequence[int | str | None] = ("rows", 3, 8, 8),
    opset: int = 18,
    *,
    output: str = "logits",
    outputs: int = 0,
) -> onnx.ModelProto:
    """Return a model from the float input "image" to `output`."""
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ("rows", outputs or None))],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def answers(graph: Graph, tensors: Arrays, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the logits of a network. images: (rows, channels, height, width)"""
    model = NetworkForImageClassification(NetworkConfig(graph=graph.model_dump(mode="json"))).eval()
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})
    with torch.no_grad():
        found: np.ndarray[Any, Any] = model(torch.from_numpy(images)).logits.numpy()
    return found


def runtime_answers(path: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the logits that ONNX Runtime computes of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found
