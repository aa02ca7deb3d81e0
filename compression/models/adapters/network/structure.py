"""What a network's config says of its channels, blocks and costs: derived once for each graph."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compression.models.adapters.network.module import NetworkConfig, parsed
from compression.models.networks.blocks import Block, block_kinds, residual_blocks
from compression.models.networks.channels import ChannelGroup, Channels, Units, channels_of
from compression.models.networks.costs import network_facts
from compression.models.networks.families.stock_checkpoint import tied
from compression.models.networks.fixed_parts import without_fixed, without_groups
from compression.models.networks.graph import Graph, Shape
from compression.models.networks.value_shapes import value_shapes
from compression.schema.report.network import NetworkFacts

LAYERS = frozenset({"conv", "linear"})
"""Operators with matrices."""


@dataclass(frozen=True)
class Structure:
    """What follows from a graph. pinned: keys of groups that are never cut; fixed: tensors that no training changes; windows:
    tensors with one number for all pairs of places that lie equally far apart, each with its window's height; stock: the stock
    config that it came from, as JSON.
    """

    graph: Graph
    pinned: frozenset[str]
    fixed: frozenset[str]
    windows: tuple[tuple[str, int], ...] = ()
    stock: str | None = None

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Return the shape of each value."""
        return value_shapes(self.graph)

    @cached_property
    def channels(self) -> Channels:
        """Return all groups, with where their channels are."""
        return channels_of(self.graph)

    @cached_property
    def groups(self) -> dict[str, ChannelGroup]:
        """Return the groups that may be cut, by key."""
        return {group.key: group for group in self.channels.groups if group.key not in self.pinned}

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Return the residual blocks that may go, in order."""
        return residual_blocks(self.graph)

    @cached_property
    def block_kinds(self) -> dict[str, int]:
        """Return the kind of each residual block by its name, in order."""
        kinds = block_kinds(self.graph, self.blocks)
        return {block.name: kind for block, kind in zip(self.blocks, kinds, strict=True)}

    @cached_property
    def facts(self) -> NetworkFacts:
        """Return what any cut costs."""
        found = network_facts(self.graph)
        if self.stock is not None:
            found = found.model_copy(update={"tied": tied(json.loads(self.stock), self.graph)})
        return without_fixed(without_groups(found, self.pinned), self.fixed, dict(self.windows))

    @cached_property
    def depths(self) -> dict[str, int]:
        """Return the depth of each node, from 1, in order: residual blocks, each with what lies before it and after the one
        before, or if there are none the layers with what follows each.
        """
        ends, found, depth, is_first = {block.name for block in self.blocks}, dict[str, int](), 1, True
        for node in self.graph.nodes:
            if not ends and node.op in LAYERS:
                depth, is_first = depth + (not is_first), False
            found[node.name] = depth
            depth += node.name in ends
        return found

    def taps_of(self, key: str) -> tuple[str, ...]:
        """Return the values in which the layers with matrices read a group's channels, in order; if none does, one that has
        them.
        """
        own = set(self.channels.units[key].tolist())
        having = [name for name, cut in self.channels.values.items() if not own.isdisjoint(cut.units.tolist())]
        read = {node.inputs[0] for node in self.graph.used() if node.op in LAYERS}
        return tuple(name for name in having if name in read) or tuple(having[:1])

    def places_of(self, key: str, units: Units) -> Tensor:
        """Return where a group's channels are among the indices of a dimension, those of a unit side by side. units: the unit
        of each index, of all units of the network.
        """
        number = np.full(self.channels.count + 1, -1)
        number[self.channels.units[key]] = np.arange(len(self.channels.units[key]))
        own = number[units]
        order = np.argsort(own, kind="stable")
        return torch.from_numpy(order[own[order] >= 0])


def structure_of(config: NetworkConfig) -> Structure:
    """Return what follows from a network's config. Raises ValueError if its graph is none."""
    stock = stock_config(config)
    stock_json = None if stock is None else json.dumps(stock)
    windows = tuple(config.windows.items())
    return _derived(json.dumps(config.graph), frozenset(config.pinned or ()), config.fixed, windows, stock_json)


@lru_cache(maxsize=8)
def _derived(
    graph: str, pinned: frozenset[str], fixed: frozenset[str], windows: tuple[tuple[str, int], ...], stock: str | None
) -> Structure:
    return Structure(parsed(graph), pinned, fixed, windows, stock)


def stock_config(config: NetworkConfig) -> dict[str, Any] | None:
    """Return the config.json of the transformers model that a network came from; None if it came from elsewhere."""
    source = config.source or {}
    return source["config"] if source.get("library") == "transformers" else None
