"""Between a network and a checkpoint of its stock class: the tensors both ways, and the config.json of a cut network."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.models.networks.channels import channel_groups
from compression.models.networks.families.builder import StockNetwork
from compression.models.networks.families.family import StockFamily
from compression.models.networks.families.registry import FAMILIES
from compression.models.networks.graph import INPUT, Graph
from compression.schema.errors import CompressionError, ConfigMismatch

Array = NDArray[Any]


@dataclass(frozen=True)
class StockCheckpoint:
    """A network as a checkpoint of its stock class."""

    config: dict[str, Any]
    tensors: dict[str, Array]  #: by their names in the file


def found_names(family: StockFamily[Any], wanted: Collection[str], names: Collection[str]) -> dict[str, str]:
    """Return the name in a file of each wanted tensor that is there, whichever of its stock names the file gives it.

    wanted: names in a checkpoint of the model with its head. A file of a bare model leaves out the prefix, and one that was
    written from memory may have the names of loaded tensors.
    """
    found = {}
    for name in wanted:
        both = (name, family.loaded(name))
        candidates = (*both, *(each.removeprefix(family.prefix) for each in both))
        if (there := next((each for each in candidates if each in names), None)) is not None:
            found[name] = there
    return found


def network_tensors(
    network: StockNetwork, family: StockFamily[Any], names: Collection[str], read: Callable[[str], Array]
) -> Iterator[tuple[str, Array]]:
    """Yield a network's tensors, float32, "node.role", from a stock file. Raises ConfigMismatch for one that is missing.

    names: of the file's tensors. read: returns one. A bare model's head, which may be missing, is left out.
    """
    there = found_names(family, set(network.names.values()), names)
    new = set(network.head) if network.labels is None else set()
    for name, stock in network.names.items():
        if stock in new:
            continue
        if stock not in there:
            raise ConfigMismatch(f"the weights lack {stock}", param=f"*.safetensors:{stock}")
        value = np.asarray(read(there[stock]), np.float32)
        entries = network.entries.get(name)
        shape = network.graph.tensors()[name] if entries is None else entries.table
        if value.shape != shape:
            cause = f"{there[stock]} has the shape {list(value.shape)}, config.json implies {list(shape)}"
            raise ConfigMismatch(cause, param=f"*.safetensors:{there[stock]}")
        yield name, value if entries is None else entries.spread(value)
    for name, values in network.fixed.items():
        yield name, values()


def stock_form(
    config: Mapping[str, Any], graph: Graph, tensors: Mapping[str, Array], labels: tuple[str, ...]
) -> StockCheckpoint | str:
    """Return a network as a stock checkpoint, or the reason why its stock class has no such model.

    config: the config.json that the network came from, perhaps wider; graph, tensors: of the network, float32.
    """
    family = FAMILIES[config["model_type"]]
    name = f"transformers' {family.stock.architectures[0]}"
    found = _stock_network(config, graph, labels)
    if found is None:
        return _no_such_model(family)
    stock, own = found.network, found.own
    factors: dict[str, Array] = {}
    for fixed, values in stock.fixed.items():
        if fixed in stock.takers:
            factors[stock.takers[fixed]] = values() / tensors[own[fixed]]
        elif not np.array_equal(tensors[own[fixed]], values()):
            return f"{name} computes {own[fixed]} from its config, and training has changed it."
    written: dict[str, Array] = {}
    for stock_tensor, stock_name in stock.names.items():
        value, entries = tensors[own[stock_tensor]], stock.entries.get(stock_tensor)
        if stock_tensor in factors:
            value = value * factors[stock_tensor]
        table = value if entries is None else entries.gathered(value)
        if table is None:
            return f"{name} has one number for several places of {own[stock_tensor]}, and training has told them apart."
        written[stock_name] = table
    # Of counted batches: stock code reads the number for an average without a momentum only.
    counters: dict[str, Array] = {counter: np.zeros((), np.int64) for counter in stock.counters}
    return StockCheckpoint(found.config, written | counters)


def lacks_stock_form(config: Mapping[str, Any], graph: Graph, labels: tuple[str, ...]) -> str | None:
    """Return why the stock class of `config` has no network that was cut so; None if it has one."""
    return None if config_at(config, graph, labels) is not None else _no_such_model(FAMILIES[config["model_type"]])


def config_at(config: Mapping[str, Any], graph: Graph, labels: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the stock config.json of a network that was cut from the one of `config`; None if there is none."""
    found = _stock_network(config, graph, labels)
    return None if found is None else found.config


def _no_such_model(family: StockFamily[Any]) -> str:
    return f"transformers' {family.stock.architectures[0]} has no model of these widths and blocks. {family.stock.limits}"


@dataclass(frozen=True)
class _Found:
    """A stock network that is the same as another."""

    config: dict[str, Any]
    network: StockNetwork
    own: dict[str, str]  #: its tensors → those of the other


def _stock_network(config: Mapping[str, Any], graph: Graph, labels: tuple[str, ...]) -> _Found | None:
    family = FAMILIES[config["model_type"]]
    try:
        found = family.narrower(family.known(config), graph)
        if found is None:
            return None
        found |= {
            "architectures": [family.stock.architectures[0]],
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
        }
        _, height, width = graph.shape
        network = family.graph_of(found, (height, width))
    except (CompressionError, LookupError):
        return None  # no config is valid, or the graph lacks a layer that every model of the family has
    nodes = matched(network.graph, graph)
    if nodes is None:
        return None
    own = {node.tensor(role): f"{nodes[node.name]}.{role}" for node in network.graph.nodes for role in node.tensors}
    return _Found(found, network, own)


def matched(graph: Graph, other: Graph) -> dict[str, str] | None:
    """Return each node's counterpart in another graph, if both compute the same by tensors of the same shapes, node by node."""
    names, pairs = {INPUT: INPUT}, (list(graph.used()), list(other.used()))
    if graph.shape != other.shape or len(pairs[0]) != len(pairs[1]):
        return None
    for node, twin in zip(*pairs, strict=True):
        same = node.op == twin.op and node.attributes == twin.attributes and node.tensors == twin.tensors
        if not same or tuple(names[name] for name in node.inputs) != twin.inputs:
            return None
        names[node.name] = twin.name
    return names


def tied(config: Mapping[str, Any], graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Return lists of keys of groups whose widths a stock config gives one proportion, that of the network; none if it can
    express no cut, or any.

    config: the config.json that the network came from. A group that no list names may have any width.
    """
    makers = {member.tensor: group.key for group in channel_groups(graph) for member in group.members if member.dim == 0}
    lists = [[makers.get(name) for name in names] for names in FAMILIES[config["model_type"]].ties(graph)]
    lists = [keys for keys in lists if any(keys)]
    if any(key is None for keys in lists for key in keys):
        return ()  # some of their outputs always stay, so those of the others would have to stay too
    return tuple(tuple(dict.fromkeys(filter(None, keys))) for keys in lists if len(set(keys)) > 1)
