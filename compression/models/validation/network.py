"""Check a network of images: one ONNX file, and preprocessor_config.json, which says what is done to an image before it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compression.models.architectures.families import NETWORK
from compression.models.architectures.network_shapes import whole_shape
from compression.models.files.json_file import BadJson, read_file
from compression.models.files.preprocessor_config import FILE, ImagePreprocessing
from compression.models.networks.costs import network_facts
from compression.models.networks.fixed_parts import without_fixed
from compression.models.networks.graph import Graph
from compression.models.networks.onnx_reader import read_onnx
from compression.models.networks.onnx_reading.constants import Array
from compression.models.networks.untrained import Constants, constants_of
from compression.models.networks.value_shapes import value_shapes
from compression.models.validation.config import told_apart
from compression.schema.errors import (
    CompressionError,
    ConfigMismatch,
    DamagedCheckpoint,
    MissingFile,
    UnsupportedArchitecture,
    listed,
)
from compression.schema.report.measurements import Parameters, Uploaded
from compression.schema.validation import ModelFacts

SUFFIX = ".onnx"
LARGEST_CONFIG = 16 << 20
"""Bytes of config.json: it may name tens of thousands of labels."""
DTYPE = "float32"


def is_onnx(folder: Path) -> bool:
    """Return whether a folder's model is an ONNX file. Safetensors and GGUF beside it take precedence."""
    others = (*folder.glob("*.safetensors"), *folder.glob("*.gguf"))
    return not others and any(folder.glob(f"*{SUFFIX}"))


def onnx_file(folder: Path) -> Path:
    """Return a folder's only ONNX file. Raises MissingFile."""
    found = sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())
    if len(found) != 1:
        cause = f"the model has {len(found)} ONNX files, not one"
        raise MissingFile(cause, param=f"*{SUFFIX}", remedy="Send the file that takes images and returns logits.")
    return found[0]


def uploaded_onnx(folder: Path) -> Uploaded:
    """Return the size and type of a folder's weights. Raises MissingFile."""
    return Uploaded(bytes=onnx_file(folder).stat().st_size, dtype=DTYPE)


def check_onnx(folder: Path) -> ModelFacts | list[CompressionError]:
    """Return the facts of a folder's ONNX network, or every reason to refuse it."""
    problems: list[CompressionError] = []
    size: tuple[int, int] | None = None
    try:
        size = ImagePreprocessing.read(folder).size
    except CompressionError as problem:
        problems.append(problem)
    try:
        path = onnx_file(folder)
        graph, tensors = read_onnx(path)
        problems += _disagreements(path, graph, tensors, size)
        labels = labels_of(folder, value_shapes(graph)[graph.output][-1])
        facts = facts_of(graph, path.name, labels, path.stat().st_size, constants_of(graph, tensors))
    except CompressionError as problem:
        return [*problems, problem]
    return problems or facts


def _disagreements(path: Path, graph: Graph, tensors: dict[str, Array], size: tuple[int, int] | None) -> list[CompressionError]:
    """Return why a network cannot be used with its preprocessing, or at all. size: height and width that images get."""
    problems: list[CompressionError] = []
    channels, *takes = graph.shape
    if channels != 3:
        cause = f"{path.name} takes images of {channels} channels; images are read with 3"
        problems.append(
            UnsupportedArchitecture(cause, param=path.name, remedy="Send a network that takes red, green and blue.")
        )
    if size is not None and size != tuple(takes):
        cause = f"{FILE} makes images of {size[0]} × {size[1]}, and {path.name} takes {takes[0]} × {takes[1]}"
        problems.append(ConfigMismatch(cause, param=FILE, remedy="Change the size in it, or export for images of its size."))
    infinite = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if infinite:
        cause = f"{path.name} holds numbers that are infinite or not a number, in {listed(infinite)}"
        problems.append(DamagedCheckpoint(cause, param=path.name))
    return problems


def facts_of(graph: Graph, file: str, labels: Sequence[str] | None, size: int, constants: Constants) -> ModelFacts:
    """Return the facts of a network. size: bytes of its weights; constants: what is known of its own.

    Raises UnsupportedArchitecture if it is no classifier.
    """
    outputs = value_shapes(graph)[graph.output][-1]
    if outputs < 2:
        raise UnsupportedArchitecture(f"{file} has one output, and not one for each of at least two labels", param=file)
    try:
        network = without_fixed(network_facts(graph), constants.fixed, constants.windows)
    except ValueError as problem:
        raise UnsupportedArchitecture(f"{file}: {str(problem)[:500]}", param=file) from problem
    total = network.parameters()
    return ModelFacts(
        family=NETWORK.name,
        architecture=NETWORK.architectures[0],
        shape=whole_shape(network),
        max_positions=0,
        parameters=Parameters(total=total, embedding=0, other=total),
        labels=None if labels is None else tuple(labels),
        dtype=DTYPE,
        bytes=size,
        network=network,
    )


def labels_of(folder: Path, outputs: int) -> tuple[str, ...] | None:
    """Return the names of a network's outputs by config.json, told apart; None if there is none. Raises ConfigMismatch."""
    if not (folder / "config.json").is_file():
        return None
    try:
        found = read_file(folder / "config.json", LARGEST_CONFIG).get("id2label")
    except BadJson as problem:
        raise ConfigMismatch(f"config.json: {problem}", param="config.json") from problem
    if found is None:
        return None
    names = [found.get(str(number)) for number in range(outputs)] if isinstance(found, dict) else []
    texts = list(told_apart(name for name in names if isinstance(name, str) and name))
    if len(found) != outputs or len(set(texts)) != outputs:
        cause = f"id2label does not name each of the network's {outputs} outputs, from 0"
        raise ConfigMismatch(cause, param="config.json:id2label")
    return tuple(texts)
