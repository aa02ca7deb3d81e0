"""Tiny networks and arrays of images, as users upload them."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compression.export.onnx.exporter import write_onnx
from compression.models.networks.graph import Graph
from tests.support.images import CLASSES, pixels
from tests.support.network_models import drawn_network

SIDE = 8


def two_classes(graph: Graph) -> Graph:
    """Return a network's graph with as many outputs as the images have classes."""
    *body, last = graph.nodes
    shapes = {role: (len(CLASSES), *shape[1:]) for role, shape in last.tensors.items()}
    return Graph(shape=graph.shape, nodes=(*body, last.model_copy(update={"tensors": shapes})), output=graph.output)


def with_preprocessor(place: Path, side: int) -> Path:
    """Write what is done to a model's images."""
    how = {"size": {"height": side, "width": side}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (place / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor", **how}))
    return place


def onnx_folder(graph: Graph, place: Path) -> Path:
    """Write a network as a user would send it: model.onnx, and the names of its outputs."""
    place.mkdir()
    write_onnx(drawn_network(two_classes(graph)), place, int8=False)
    (place / "config.json").write_text(json.dumps({"id2label": dict(enumerate(CLASSES))}))
    return with_preprocessor(place, SIDE)


def images(rows: int, seed: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    labels = [number % 2 for number in range(rows)]
    return np.stack([pixels(label, seed + number) for number, label in enumerate(labels)]), [CLASSES[label] for label in labels]
