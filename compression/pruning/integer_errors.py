"""Error of each layer's output by the integers that a model simulates."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.quantization.fake_quantize import REAL, simulated_layers, simulation_of
from compression.schema.error_tables import IntegerErrors


@dataclass
class RoundingCollector:
    """Sums the squares of what layers say with their integers and without. Layers: by name, simulated."""

    layers: Mapping[str, nn.Module]
    scheme: str
    mask: Tensor = field(default_factory=lambda: torch.empty(0))  #: of the current batch, (rows, tokens)
    changed: dict[str, float] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)

    def attach(self, hooks: ExitStack) -> None:
        """Observe all layers until `hooks` close."""
        for name, layer in self.layers.items():
            hooks.enter_context(layer.register_forward_hook(partial(self._see, name)))

    def _see(self, name: str, layer: nn.Module, given: tuple[Any, ...], rounded: Tensor) -> None:
        plain: Tensor = REAL[type(layer)].forward(layer, given[0])
        for sums, values in ((self.changed, rounded - plain), (self.whole, plain)):
            real = values[self.mask.bool()] if values.shape[:-1] == self.mask.shape else values
            sums[name] = sums.get(name, 0.0) + float(real.double().square().sum())

    def errors(self) -> tuple[IntegerErrors, ...]:
        """Return each layer's error in the scheme, by name, that the model simulates."""
        return tuple(
            IntegerErrors(layer=name, schemes={self.scheme: changed / max(self.whole[name], 1e-30)})
            for name, changed in self.changed.items()
        )


def rounding_collector(model: PreTrainedModel) -> RoundingCollector | None:
    """Return what finds the error of each layer with integer weights, given the inputs that the model as it is gives it; None
    if the model simulates no integers.
    """
    simulation = simulation_of(model)
    return None if simulation is None else RoundingCollector(dict(simulated_layers(model)), simulation.scheme)
