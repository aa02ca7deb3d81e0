"""The model that computes a network's graph. Transformers' Auto classes know it once this module is imported.

Its state dict has a key for each tensor of the graph, "node.role", in the order of the nodes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel, initialization
from transformers.utils import ModelOutput

from compression.models.adapters.network.operators import compute
from compression.models.adapters.network.parts import PassedValue, SlopedRelu, part_of
from compression.models.networks.graph import INPUT, Graph, Shape
from compression.models.networks.rounded_values import LAYERS, rounded_values, rounding
from compression.models.networks.value_shapes import value_shapes

MOST_ELEMENTS = 2**31
"""Of all tensors of a network together."""


class NetworkConfig(PretrainedConfig):  # type: ignore[misc]  # transformers has no types for mypy
    """config.json of a network. graph: a `Graph` as JSON; source: the library and the config that it came from."""

    model_type = "network"
    graph: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    initializer_range: float = 0.02

    @property
    def network(self) -> Graph:
        """Return the graph. Raises ValueError."""
        return _parsed(json.dumps(self.graph))


@lru_cache(maxsize=8)
def _parsed(graph: str) -> Graph:
    return Graph.model_validate_json(graph)


@dataclass
class NetworkOutput(ModelOutput):  # type: ignore[misc]  # transformers has no types for mypy
    """logits: (rows, labels). hidden_states: the last map of each size, (rows, channels, height, width) each."""

    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class NetworkForImageClassification(PreTrainedModel):  # type: ignore[misc]  # transformers has no types for mypy
    """Computes the nodes of a graph in their order. `values` has a `PassedValue` for each value that integers round."""

    config_class = NetworkConfig
    main_input_name = "pixel_values"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        graph = config.network
        shapes = value_shapes(graph)
        if (elements := sum(prod(shape) for shape in graph.tensors().values())) > MOST_ELEMENTS:
            raise ValueError(f"the tensors have {elements:,} elements, at most {MOST_ELEMENTS:,} are allowed")
        self.values = nn.ModuleDict()
        for name in (INPUT, *(node.name for node in graph.nodes)):
            if name in TAKEN:
                raise ValueError(f"a node cannot be called {name!r}")
        for node in graph.nodes:
            if node.tensors:
                self.add_module(node.name, part_of(node))
        rounded, without_linear = rounding(graph), rounding(graph, ("conv",))
        for name in rounded_values(graph):
            self.values[name] = PassedValue(without_linear=name in without_linear.made | without_linear.read)
        self._only_read = rounded.read
        self._steps = tuple(graph.used())
        last = {name: number for number, node in enumerate(self._steps) for name in node.inputs}
        self._freed = [[name for name in set(node.inputs) if last[name] == at] for at, node in enumerate(self._steps)]
        self._answer = graph.output
        self._maps = set(last_maps(graph, shapes))
        self.post_init()

    def get_input_embeddings(self) -> None:
        """Return None: the model has no tables. Stock code asks every model."""

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False, **_: Any) -> NetworkOutput:
        """(rows, channels, height, width) -> logits, and the last map of each size if asked."""
        values, maps = {INPUT: pixel_values}, []
        rounded = self._rounded(INPUT, values)
        for node, freed in zip(self._steps, self._freed, strict=True):
            inputs = [rounded.get(name, values[name]) if node.op in LAYERS else values[name] for name in node.inputs]
            values[node.name] = compute(node, self._modules.get(node.name), inputs, len(pixel_values))
            rounded |= self._rounded(node.name, values)
            if output_hidden_states and node.name in self._maps:
                maps.append(values[node.name])
            for name in freed:
                del values[name]
                rounded.pop(name, None)
        return NetworkOutput(values[self._answer], tuple(maps) if output_hidden_states else None)

    def _rounded(self, name: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pass a value on, in `values` or, if only layers read it rounded, in what is returned."""
        if name not in self.values:
            return {}
        passed: Tensor = self.values[name](values[name])
        if name in self._only_read:
            return {name: passed}
        values[name] = passed
        return {}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights as published for convolutions before a ReLU (He et al. 2015), and as stock code does for the rest."""
        if isinstance(module, nn.Conv2d):
            initialization.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                initialization.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            initialization.ones_(module.weight)
            if module.bias is not None:
                initialization.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                initialization.zeros_(module.running_mean)
                initialization.ones_(module.running_var)
        elif isinstance(module, SlopedRelu):
            initialization.constant_(module.slope, 0.25)
        else:
            super()._init_weights(module)


def last_maps(graph: Graph, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Return the last map of each size that integers round, in order: what stages of a network hand on. A map has more than one
    place. shapes: of `value_shapes`.
    """
    found: dict[Shape, str] = {}
    for name in rounded_values(graph):
        _, *sizes = shapes[name][1:] if len(shapes[name]) == 4 and name != INPUT else (0,)
        if prod(sizes) > 1:
            found.pop(tuple(sizes), None)
            found[tuple(sizes)] = name
    return tuple(found.values())


TAKEN = frozenset({*dir(PreTrainedModel), *dir(nn.ModuleDict), *vars(nn.Module()), "config", "name_or_path", "kernel_config"})
TAKEN |= {"values", "loss_type", "all_tied_weights_keys", "_steps", "_freed", "_answer", "_maps"}
"""Attributes of the model, whose names no node can bear."""
AutoConfig.register("network", NetworkConfig)
AutoModelForImageClassification.register(NetworkConfig, NetworkForImageClassification)
