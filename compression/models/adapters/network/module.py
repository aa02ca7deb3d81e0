"""The model that computes a network's graph. Transformers' Auto classes know it once this module is imported.

Its state dict has a key for each tensor of the graph, "node.role", in the order of the nodes.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel, initialization
from transformers.utils import ModelOutput

from compression.models.adapters.network.operators import compute
from compression.models.adapters.network.parts import Constant, PassedValue, SlopedRelu, part_of
from compression.models.networks.graph import INPUT, Graph
from compression.models.networks.rounded_values import LAYERS, rounded_values, rounding
from compression.models.networks.stage_maps import stage_maps
from compression.models.networks.value_shapes import value_shapes

MOST_ELEMENTS = 2**31
"""Of all tensors of a network together."""


class NetworkConfig(PretrainedConfig):  # type: ignore[misc]  # transformers has no types for mypy
    """config.json of a network.

    graph: a `Graph` as JSON. source: the library and the config that it came from, the library's `names` of tensors (timm's as
    views: `models.timm_form.Origin`), names of tensors that no training changes (`fixed`), and of those that have one number
    for all pairs of a window's places that lie equally far apart, with the window's height (`windows`). pinned: keys of the
    groups that are never cut, because a trial cut changed more than it says.
    """

    model_type = "network"
    graph: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    pinned: tuple[str, ...] = ()
    initializer_range: float = 0.02

    @property
    def network(self) -> Graph:
        """Return the graph. Raises ValueError."""
        return parsed(json.dumps(self.graph))

    @property
    def fixed(self) -> frozenset[str]:
        """Return the names of tensors that no training changes."""
        return frozenset((self.source or {}).get("fixed", ()))

    @property
    def windows(self) -> dict[str, int]:
        """Return the height of the window of each tensor whose numbers are shared by distance."""
        return dict((self.source or {}).get("windows", {}))


@lru_cache(maxsize=8)
def parsed(graph: str) -> Graph:
    """Return a graph from its JSON. Raises ValueError."""
    return Graph.model_validate_json(graph)


@dataclass
class NetworkOutput(ModelOutput):  # type: ignore[misc]  # transformers has no types for mypy
    """logits: (rows, labels). hidden_states: the maps of `stage_maps`, (rows, channels, height, width) each."""

    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class NetworkForImageClassification(PreTrainedModel):  # type: ignore[misc]  # transformers has no types for mypy
    """Computes the nodes of a graph in their order.

    `values` has a module for each value, which hands it on to its readers: a `PassedValue` where integers round it, else an
    nn.Identity.
    """

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
                part = part_of(node, trained=config.fixed.isdisjoint(map(node.tensor, node.tensors)))
                if isinstance(part, Constant) and (window := config.windows.get(node.tensor("value"))) is not None:
                    part.share(window)
                self.add_module(node.name, part)
        for name in (INPUT, *(node.name for node in graph.used())):
            self.values[name] = nn.Identity()
        rounded, without_linear = rounding(graph), rounding(graph, ("conv",))
        for name in rounded_values(graph):
            self.values[name] = PassedValue(without_linear=name in without_linear.made | without_linear.read)
        self._only_read = rounded.read
        self._steps = tuple(graph.used())
        last = {name: number for number, node in enumerate(self._steps) for name in node.inputs}
        self._freed = [[name for name in set(node.inputs) if last[name] == at] for at, node in enumerate(self._steps)]
        self._answer = graph.output
        self._maps = set(stage_maps(graph, shapes))
        self.post_init()

    def get_input_embeddings(self) -> None:
        """Return None: the model has no tables. Stock code asks every model."""

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False, **_: Any) -> NetworkOutput:
        """(rows, channels, height, width) -> logits, and the stages' maps if asked."""
        # oneDNN and cuDNN multiply channels that lie side by side as they are; others they move to new places and back.
        values, maps = {INPUT: pixel_values.contiguous(memory_format=torch.channels_last)}, []
        rounded = self._rounded(INPUT, values)
        for node, freed in zip(self._steps, self._freed, strict=True):
            inputs = [rounded.get(name, values[name]) if node.op in LAYERS else values[name] for name in node.inputs]
            values[node.name] = compute(node, self._modules.get(node.name), inputs, pixel_values.shape[0])
            rounded |= self._rounded(node.name, values)
            if output_hidden_states and node.name in self._maps:
                maps.append(as_map(values[node.name]))
            for name in freed:
                del values[name]
                rounded.pop(name, None)
        return NetworkOutput(values[self._answer], tuple(maps) if output_hidden_states else None)

    def _rounded(self, name: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pass a value on, in `values` or, if only layers read it rounded, in what is returned."""
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


def as_map(value: Tensor) -> Tensor:
    """Return a stage's map: (rows, tokens, channels) as (rows, channels, tokens, 1); maps stay as they are."""
    return value.transpose(1, 2)[..., None] if value.ndim == 3 else value


TAKEN = frozenset({*dir(PreTrainedModel), *dir(nn.ModuleDict), *vars(nn.Module()), "config", "name_or_path", "kernel_config"})
TAKEN |= {"values", "loss_type", "all_tied_weights_keys", "_steps", "_freed", "_answer", "_maps", "_only_read"}
"""Attributes of the model, whose names no node can bear."""
AutoConfig.register("network", NetworkConfig)
AutoModelForImageClassification.register(NetworkConfig, NetworkForImageClassification)
