"""Write a network that was read from an upload as a folder that stock code opens, after a trial cut of its groups."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compression.models.adapters.network.cut import unproven
from compression.models.adapters.network.module import TAKEN, NetworkConfig, NetworkForImageClassification
from compression.models.files.preprocessor_config import FILE, ImagePreprocessing
from compression.models.networks.graph import INPUT, Graph
from compression.models.networks.value_shapes import value_shapes
from compression.schema.errors import ConfigMismatch
from compression.system import durable_files

Arrays = Mapping[str, NDArray[np.float32]]
BARE = "NetworkModel"
"""The value of `architectures` of a network whose head is new."""


def network_of(
    graph: Graph, tensors: Arrays, source: Mapping[str, Any], labels: Sequence[str] | None
) -> NetworkForImageClassification:
    """Build the model of a graph. labels: of its outputs; None if they have no names. tensors: a new head's may be missing.

    source: `library`, `config`, and by "node.role" the `names` of stock tensors, those that are `fixed`, and `windows`. Raises
    ValueError if there is no such model.
    """
    graph, names = renamed(graph)
    outputs = value_shapes(graph)[graph.output][-1]
    own_names = {_renamed(name, names): stock for name, stock in source.get("names", {}).items()}
    own_fixed = [_renamed(name, names) for name in source.get("fixed", ())]
    own_windows = {_renamed(name, names): height for name, height in source.get("windows", {}).items()}
    source = {**source, "names": own_names, "fixed": own_fixed, "windows": own_windows}
    config = NetworkConfig(graph=graph.model_dump(mode="json"), source=source, num_labels=outputs)
    if labels is not None:
        config.id2label, config.label2id = dict(enumerate(labels)), {name: number for number, name in enumerate(labels)}
    model = NetworkForImageClassification(config)
    model.eval()
    own = model.state_dict()
    for name, values in tensors.items():
        own[_renamed(name, names)].copy_(torch.tensor(values))
    config.pinned = unproven(model)
    return model


def write_network(model: NetworkForImageClassification, place: Path, sent: Path, *, headed: bool = True) -> None:
    """Write a network's folder. sent: the upload, which says what is done to images; headed: whether the network has its head,
    or gets a new one. Raises MissingFile and ConfigMismatch.
    """
    preprocessing = ImagePreprocessing.read(sent)
    if preprocessing.size != model.config.network.shape[1:]:
        cause = f"{FILE} makes images of {preprocessing.size}, and the network takes {model.config.network.shape[1:]}"
        raise ConfigMismatch(cause, param=FILE)
    with durable_files.folder(place) as folder:
        state = {name: value for name, value in model.state_dict().items() if headed or not _is_of_head(model, name)}
        model.save_pretrained(folder, state_dict=state)
        if not headed:
            config = NetworkConfig.from_pretrained(folder)
            config.architectures = [BARE]
            config.save_pretrained(folder)
        preprocessing.write(folder)


def _is_of_head(model: NetworkForImageClassification, name: str) -> bool:
    return name.startswith(f"{model.config.network.output}.")


def renamed(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """Return a graph whose nodes have names that a model can have, and the new name of each node that had none."""
    known = {INPUT, *(node.name for node in graph.nodes)}
    names: dict[str, str] = {}
    for name in sorted(known & TAKEN):
        found = f"{name}_node"
        while found in known:
            found += "_"
        names[name] = found
        known.add(found)
    if not names:
        return graph, names

    def new(name: str) -> str:
        return names.get(name, name)

    nodes = [node.model_copy(update={"name": new(node.name), "inputs": tuple(map(new, node.inputs))}) for node in graph.nodes]
    return Graph(shape=graph.shape, nodes=tuple(nodes), output=new(graph.output)), names


def _renamed(tensor: str, names: Mapping[str, str]) -> str:
    node, _, role = tensor.partition(".")
    return f"{names.get(node, node)}.{role}"
