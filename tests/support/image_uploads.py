"""A tiny classifier of images as an ONNX file, and images for it, as they are uploaded. No torch is loaded for them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.images import CLASSES, pixels

SIDE, STREAM, INNER = 8, 8, 16
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
}
NETWORK_RECIPE: dict[str, Any] = {
    "prepare": {"epochs": 2, "rate": 5e-3},
    "quantize": {"scheme": "static-int8", "calibration_rows": 32},
    "prune": {"ratio": 0.5, "importance": "l1_weight", "calibration_rows": 32},
    "distill": {"epochs": 2, "rate": 5e-3},
    "train": {"batch": 16, "views": {"crop": 1, "flip": True}},
}
"""All stages, of a network that has batch normalizations, on views of its images."""


def op(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """Return an operator; its inputs are separated by spaces."""
    return helper.make_node(kind, inputs.split(), [output], **attributes)


HEAD = (
    op("GlobalAveragePool", "y", "pooled"),
    op("Flatten", "pooled", "flat"),
    op("Gemm", "flat head bias", "logits", transB=1),
)
RESIDUAL = (
    op("Conv", "image stem", "c0", pads=[1] * 4, strides=[2, 2]),
    op("BatchNormalization", "c0 w0 b0 m0 v0", "n0"),
    op("Relu", "n0", "x"),
    op("Conv", "x widen", "c1", pads=[1] * 4),
    op("BatchNormalization", "c1 w1 b1 m1 v1", "n1"),
    op("Relu", "n1", "inner"),
    op("Conv", "inner narrow", "c2", pads=[1] * 4),
    op("BatchNormalization", "c2 w2 b2 m2 v2", "n2"),
    op("Add", "x n2", "sum"),
    op("Relu", "sum", "y"),
    *HEAD,
)
"""A residual block between a stem and a head: its inner channels can be cut."""
LINEAR = (op("Flatten", "image", "flat"), op("Gemm", "flat all bias", "logits", transB=1))
"""One linear layer: no channel of it can be cut."""


def network_file(nodes: Sequence[onnx.NodeProto] = RESIDUAL, rows: int | str = "rows") -> bytes:
    """Return an ONNX file of these operators with drawn weights. rows: the size of the batch axis, or a name if it is free."""
    draw = np.random.default_rng(0)
    shapes = {
        "stem": (STREAM, 3, 3, 3),
        "widen": (INNER, STREAM, 3, 3),
        "narrow": (STREAM, INNER, 3, 3),
        "head": (len(CLASSES), STREAM),
        "all": (len(CLASSES), 3 * SIDE * SIDE),
        "bias": (len(CLASSES),),
    }
    weights = {name: 0.2 * draw.standard_normal(shape) for name, shape in shapes.items()}
    for number, width in enumerate((STREAM, INNER, STREAM)):
        for role, value in (("w", 1.0), ("b", 0.0), ("m", 0.0), ("v", 1.0)):
            weights[f"{role}{number}"] = np.full(width, value)
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (rows, 3, SIDE, SIDE))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (rows, len(CLASSES)))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    found: bytes = model.SerializeToString()
    return found


def tiny_network(folder: Path, file: bytes | None = None, labels: Sequence[str] = CLASSES) -> Path:
    """Write a network's folder: model.onnx, what is done to images, and the names of its outputs."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(network_file() if file is None else file)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}))
    return folder


def arrays(rows: int, seed: int) -> bytes:
    """Return images of both classes, in turn, as an .npz file."""
    stream, labels = io.BytesIO(), np.arange(rows) % 2
    shown: npt.NDArray[np.uint8] = np.stack([pixels(int(label), seed + number) for number, label in enumerate(labels)])
    np.savez(stream, image=shown, label=np.array([CLASSES[label] for label in labels]))
    return stream.getvalue()


def image_splits(train: int = 96) -> dict[str, bytes]:
    """Return a file of each split."""
    sizes = {"train": (train, 0), "validation": (32, 1000), "test": (32, 2000)}
    return {f"{name}.npz": arrays(rows, seed) for name, (rows, seed) in sizes.items()}


OF_IMAGES: dict[str, str] = {"task": "image-classification", "format": "npz"}
"""The fields of the request that creates a dataset of these files."""
