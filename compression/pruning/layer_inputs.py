"""Second moments of what layers read on calibration rows, and the change that each layer makes to the stream."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch
from compression.models.adapters.structure import Tap, view_of
from compression.models.linear_layers import input_columns, unfolding
from compression.pruning.scores import observe_tap, run
from compression.pruning.unit_removal import Inputs

MOST_POSITIONS = 64
"""Positions of a row that count, evenly spaced, if they are no tokens: a large map has thousands that resemble each other."""


class Collector(Protocol):
    """Observes a model while batches run through it."""

    mask: Tensor

    def attach(self, hooks: ExitStack) -> None:
        """Observe until `hooks` close. `mask` is that of the current batch, (rows, tokens)."""


@dataclass
class _Sums:
    count: int = 0
    second: Tensor | float = 0.0
    total: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Add what a batch's positions hold. values: (positions, columns)"""
        self.count += len(values)
        self.second = self.second + (values.t() @ values).double()
        self.total = self.total + values.double().sum(dim=0)


@dataclass
class InputCollector:
    """Sums what layers read. Layers that read the very same share their sums."""

    layers: dict[str, nn.Module]
    mask: Tensor = field(default_factory=lambda: torch.empty(0))  #: of the current batch, (rows, tokens)
    sums: dict[str, _Sums] = field(default_factory=dict)
    same_as: dict[str, str] = field(default_factory=dict)  #: layer → the one before it that reads the same
    _last: tuple[Any, ...] = ()

    def attach(self, hooks: ExitStack) -> None:
        """Observe all layers until `hooks` close."""
        for name, layer in self.layers.items():
            observe_tap(hooks, (layer, "in"), partial(self._see, name))

    def _see(self, name: str, given: Tensor) -> None:
        layer = self.layers[name]
        kind = unfolding(layer)
        if self._last and self._last[0] is given and self._last[1] == kind:
            self.same_as[name] = self._last[2]
            return
        self._last = (given, kind, name)
        self.sums.setdefault(name, _Sums()).add(real_positions(input_columns(layer, given.detach().float()), self.mask))

    def inputs(self, name: str) -> Inputs | None:
        """Return what a layer has read; None if it did not run."""
        sums = self.sums.get(self.same_as.get(name, name))
        if sums is None or not sums.count:
            return None
        assert isinstance(sums.second, Tensor)  # noqa: S101 (something was added)
        assert isinstance(sums.total, Tensor)  # noqa: S101
        return Inputs(sums.second / sums.count, sums.total / sums.count)


def real_positions(values: Tensor, mask: Tensor) -> Tensor:
    """Return the columns at real tokens, or at some of the positions that are no tokens. -> (positions, columns)"""
    if values.shape[:2] == mask.shape:
        return values[mask.bool()]
    if values.shape[1] > MOST_POSITIONS:
        values = values[:, torch.linspace(0, values.shape[1] - 1, MOST_POSITIONS, device=values.device).long()]
    return values.flatten(0, 1)


@torch.no_grad()
def collect_inputs(
    model: PreTrainedModel, names: Iterable[str], batches: Iterable[Batch], before_batch: Callable[[], None] = lambda: None
) -> InputCollector:
    """Run batches through a model and return what the layers of these names read. before_batch runs before each."""
    collector = InputCollector({name: model.get_submodule(name) for name in names})
    run_observed(model, collector, batches, before_batch)
    return collector


@dataclass
class ChangeCollector:
    """Sums what each layer adds to the stream."""

    streams: Sequence[tuple[Tap, Tap]]
    mask: Tensor = field(default_factory=lambda: torch.empty(0))
    added: dict[int, float] = field(default_factory=dict)
    whole: dict[int, float] = field(default_factory=dict)
    _inputs: dict[int, Tensor] = field(default_factory=dict)

    def attach(self, hooks: ExitStack) -> None:
        """Observe the input and the output of each layer until `hooks` close."""
        for number, (before, after) in enumerate(self.streams):
            observe_tap(hooks, before, partial(self._before, number, before))
            observe_tap(hooks, after, partial(self._after, number, after))

    def changes(self) -> list[float]:
        """Return the share of each layer's output that it has added itself, by squares."""
        return [self.added[number] / self.whole[number] if self.whole[number] else 0.0 for number in sorted(self.added)]

    def _before(self, number: int, tap: Tap, seen: Tensor) -> None:
        self._inputs[number] = real_positions(view_of(tap)(seen.float()), self.mask)

    def _after(self, number: int, tap: Tap, seen: Tensor) -> None:
        made = real_positions(view_of(tap)(seen.float()), self.mask)
        given = self._inputs.pop(number)
        self.added[number] = self.added.get(number, 0.0) + float((made - given).double().square().sum())
        self.whole[number] = self.whole.get(number, 0.0) + float(made.double().square().sum())


@torch.no_grad()
def layer_changes(
    model: PreTrainedModel,
    streams: Sequence[tuple[Tap, Tap]],
    batches: Iterable[Batch],
    before_batch: Callable[[], None] = lambda: None,
) -> list[float]:
    """Run batches through a model and return what share of its output each layer has added, shallow first."""
    collector = ChangeCollector(streams)
    run_observed(model, collector, batches, before_batch)
    return collector.changes()


def run_observed(
    model: PreTrainedModel, collector: Collector, batches: Iterable[Batch], before_batch: Callable[[], None] = lambda: None
) -> None:
    """Run batches through a model in evaluation mode while a collector observes it. before_batch runs before each."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    with ExitStack() as hooks:
        collector.attach(hooks)
        for batch in batches:
            before_batch()
            here = batch.to(device)
            collector.mask = here.mask
            run(model, here)
    model.train(training)
