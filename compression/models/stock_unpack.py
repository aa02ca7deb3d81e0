"""Turn an image classifier of a stock family into a network's folder: its graph follows from config.json."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compression.models.files.json_file import BadJson, read_file
from compression.models.files.preprocessor_config import ImagePreprocessing
from compression.models.network_folder import network_of, write_network
from compression.models.networks.families.registry import FAMILIES
from compression.models.networks.families.stock_checkpoint import network_tensors
from compression.models.sharded_checkpoint import SafetensorsReader
from compression.models.validation.network import LARGEST_CONFIG
from compression.schema.errors import ConfigMismatch


def is_one(folder: Path) -> bool:
    """Return whether config.json names one of the families."""
    try:
        return read_file(folder / "config.json", LARGEST_CONFIG).get("model_type") in FAMILIES
    except (BadJson, OSError, TypeError):
        return False


def unpack(folder: Path, place: Path, labels: Sequence[str] = ()) -> None:
    """Write a stock model's folder as a network's, `place`. A bare model's new head has an output for each of the labels.

    Raises MissingFile, UnsupportedArchitecture, ConfigMismatch and DamagedCheckpoint.
    """
    config = read_file(folder / "config.json", LARGEST_CONFIG)
    family, checkpoint = FAMILIES[config["model_type"]], SafetensorsReader(folder)
    network = family.graph_of(config, ImagePreprocessing.read(folder).size, len(labels) or None)

    def read(name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = checkpoint.tensor(name).float().numpy()
        return found

    tensors = dict(network_tensors(network, family, checkpoint.names(), read))
    source = {
        "library": "transformers",
        "config": config,
        "names": dict(network.names),
        "fixed": [*network.fixed],
        "windows": {name: entries.window for name, entries in network.entries.items()},
    }
    try:
        model = network_of(network.graph, tensors, source, network.labels)
    except ValueError as problem:
        raise ConfigMismatch(f"config.json makes no network: {str(problem)[:500]}", param="config.json") from problem
    write_network(model, place, folder, headed=network.labels is not None)
