"""Error of each layer's output by the integers that a model simulates: one pass over the calibration rows."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch
from compression.pruning.layer_inputs import run_observed
from compression.quantization.fake_quantize import REAL, simulated_layers, simulation_of
from compression.schema.error_tables import IntegerErrors


@dataclass
class RoundingCollector:
    """Sums the squares of what layers say with their integers and without. Layers: by name, simulated."""

    layers: Mapping[str, nn.Module]
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


@torch.no_grad()
def integer_errors(
    model: PreTrainedModel, batches: Iterable[Batch], before_batch: Callable[[], None] = lambda: None
) -> tuple[IntegerErrors, ...]:
    """Return the error of each layer with integer weights, given the inputs that the model as it is gives it; empty if the
    model simulates none. before_batch runs before each batch.
    """
    simulation = simulation_of(model)
    if simulation is None:
        return ()
    collector = RoundingCollector(dict(simulated_layers(model)))
    run_observed(model, collector, batches, before_batch)
    return tuple(
        IntegerErrors(layer=name, schemes={simulation.scheme: changed / max(collector.whole[name], 1e-30)})
        for name, changed in collector.changed.items()
    )
