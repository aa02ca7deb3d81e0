"""Error of each layer's output by the integers that a model simulates, and by 8 bits where these have 4."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compression.models.linear_layers import matrix
from compression.quantization.fake_quantize import EIGHT_BITS, REAL, simulated_layers, simulation_of
from compression.quantization.weight_only import WeightOnlyLinear, dequantized_weights
from compression.schema.error_tables import IntegerErrors


@dataclass
class RoundingCollector:
    """Sums the squares of what layers say with their integers and without. Layers: by name, simulated."""

    layers: Mapping[str, nn.Module]
    mask: Tensor = field(default_factory=lambda: torch.empty(0))  #: of the current batch, (rows, tokens)
    changed: dict[str, dict[str, float]] = field(default_factory=dict)  #: by layer and scheme
    whole: dict[str, float] = field(default_factory=dict)

    def attach(self, hooks: ExitStack) -> None:
        """Observe all layers until `hooks` close."""
        for name, layer in self.layers.items():
            hooks.enter_context(layer.register_forward_hook(partial(self._see, name)))

    def _see(self, name: str, layer: nn.Module, given: tuple[Any, ...], rounded: Tensor) -> None:
        plain: Tensor = REAL[type(layer)].forward(layer, given[0])
        own, sums = str(layer.scheme), self.changed.setdefault(name, {})
        sums[own] = sums.get(own, 0.0) + self._energy(rounded - plain)
        if isinstance(layer, WeightOnlyLinear) and layer.group_size is not None:
            finer = functional.linear(given[0], dequantized_weights(matrix(layer), None), layer.bias)
            sums[EIGHT_BITS] = sums.get(EIGHT_BITS, 0.0) + self._energy(finer - plain)
        self.whole[name] = self.whole.get(name, 0.0) + self._energy(plain)

    def _energy(self, values: Tensor) -> float:
        """Return the sum of squares over the tokens that are no padding."""
        real = values[self.mask.bool()] if values.shape[:-1] == self.mask.shape else values
        return float(real.double().square().sum())

    def errors(self) -> tuple[IntegerErrors, ...]:
        """Return each layer's error by name: in the scheme that the model simulates, and in 8 bits if that has 4."""
        return tuple(
            IntegerErrors(layer=name, schemes={scheme: sum_ / max(self.whole[name], 1e-30) for scheme, sum_ in sums.items()})
            for name, sums in self.changed.items()
        )


def rounding_collector(model: PreTrainedModel) -> RoundingCollector | None:
    """Return what finds the error of each layer with integer weights, given the inputs that the model as it is gives it; None
    if the model simulates no integers.
    """
    return None if simulation_of(model) is None else RoundingCollector(dict(simulated_layers(model)))
