"""Second moments of what layers read on calibration rows, and the change that each layer makes to the stream."""

import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch
from compression.models.adapters.registry import adapter_of, is_decoder
from compression.models.adapters.structure import Tap, view_of
from compression.models.linear_layers import input_columns, unfolding
from compression.planning.table_work import MOMENTS_BYTES, MOST_POSITIONS, moments_bytes
from compression.pruning.scores import observe_tap, run
from compression.pruning.unit_removal import Inputs

Batches = Callable[[], Iterable[Batch]]
"""Begins a pass over the calibration rows."""


class Collector(Protocol):
    """Observes a model while batches run through it."""

    mask: Tensor

    def attach(self, hooks: ExitStack) -> None:
        """Observe until `hooks` close. `mask` is that of the current batch, (rows, tokens)."""


@dataclass
class _Sums:
    """Sums over positions, in float32: each batch's products are no more exact."""

    second: Tensor
    total: Tensor
    count: int = 0

    def add(self, values: Tensor) -> None:
        """Add what a batch's positions hold. values: (positions, columns)"""
        self.count += len(values)
        self.second.addmm_(values.t(), values)
        self.total += values.double().sum(dim=0)

    def means(self) -> Inputs:
        """Return the means; the sums are lost."""
        return Inputs(self.second.div_(self.count), self.total / self.count)


@dataclass
class InputCollector:
    """Sums what layers read. Layers that read the very same share their sums. `room`: bytes of sums; a layer for which there is
    none left is put off, but for the first one.
    """

    taps: Mapping[str, Tap]
    layers: Mapping[str, nn.Module]
    room: int
    mask: Tensor = field(default_factory=lambda: torch.empty(0))  #: of the current batch, (rows, tokens)
    sums: dict[str, _Sums] = field(default_factory=dict)
    same_as: dict[str, str] = field(default_factory=dict)  #: layer → the one before it that reads the same
    put_off: dict[str, None] = field(default_factory=dict)  #: in the order in which they run
    _seen: list[tuple[ref[Tensor], tuple[object, ...], str]] = field(default_factory=list)  #: inputs that still exist

    def attach(self, hooks: ExitStack) -> None:
        """Observe all layers until `hooks` close."""
        for name, tap in self.taps.items():
            observe_tap(hooks, tap, partial(self._see, name))

    def _see(self, name: str, given: Tensor) -> None:
        layer = self.layers[name]
        kind = (given._version, unfolding(layer))
        self._seen = [each for each in self._seen if each[0]() is not None]
        for known, own, first in self._seen:
            if known() is given and own == kind and first != name:
                self.same_as[name] = first
                return
        self._seen.append((ref(given), kind, name))
        if name in self.put_off:
            return
        values = real_positions(input_columns(layer, given.detach(), MOST_POSITIONS).float(), self.mask)
        if name not in self.sums:
            columns = values.shape[1]
            if self.sums and moments_bytes(columns) > self.room:
                self.put_off[name] = None
                return
            self.room -= moments_bytes(columns)
            self.sums[name] = _Sums(values.new_zeros(columns, columns), values.new_zeros(columns, dtype=torch.float64))
        self.sums[name].add(values)


class KeptInputs:
    """What the layers of a model read, over all calibration rows: collected once, for its tables and for all of its cuts.

    If one pass has room for all, they stay in memory; else in a file of `folder`, which has no name and goes with this object.
    """

    def __init__(self, batches: Batches, folder: Path | None = None, most: int = MOMENTS_BYTES) -> None:
        """most: bytes of sums in one pass. folder: None is the system's for temporary files."""
        self.batches, self.folder, self.most = batches, folder, most
        self.passes, self.rows = 0, 0  #: rows: calibration rows
        self._held: dict[str, Inputs | tuple[int, Tensor]] = {}  # the number of values before a matrix in the file, and means
        self._same_as: dict[str, str] = {}
        self._file: Any = None
        self._written = 0

    def of(self, name: str) -> Inputs | None:
        """Return what a layer has read; None if it did not run."""
        found = self._held.get(self.key(name))
        if not isinstance(found, tuple):
            return found
        place, mean = found
        self._file.seek(4 * place)
        second = torch.from_numpy(np.fromfile(self._file, dtype=np.float32, count=len(mean) ** 2))
        return Inputs(second.view(len(mean), len(mean)).to(mean.device), mean)

    def has(self, name: str) -> bool:
        """Return whether a layer ran."""
        return self.key(name) in self._held

    def key(self, name: str) -> str:
        """Return the name of the first layer that reads what a layer reads."""
        return self._same_as.get(name, name)

    @property
    def bytes(self) -> int:
        """Return the bytes of memory that are held."""
        return sum(each.second.nbytes for each in self._held.values() if isinstance(each, Inputs))

    @torch.no_grad()
    def collect(
        self, model: PreTrainedModel, names: Iterable[str], beside: Sequence[Collector] = ()
    ) -> Generator[None, None, None]:
        """Run the calibration rows through a model, as often as memory asks for, and hold what these layers read; yield after
        each batch. beside: what else observes the first pass.
        """
        wanted = {*names}
        taps: Mapping[str, Tap] = {name: _tap(model, name) for name, _ in model.named_modules() if name in wanted}
        while True:
            collector = InputCollector(taps, {name: model.get_submodule(name) for name in taps}, self.most)
            self.rows = yield from run_observed(model, [collector, *beside], self.batches())
            self.passes, beside = self.passes + 1, ()
            self._same_as |= collector.same_as
            in_memory = self.passes == 1 and not collector.put_off
            for name in [*collector.sums]:
                found = collector.sums.pop(name).means()
                self._held[name] = found if in_memory else self._store(found)
            taps = {name: taps[name] for name in collector.put_off}
            if not taps:
                return

    def _store(self, found: Inputs) -> tuple[int, Tensor]:
        if self._file is None:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 (it is open as long as this object lives)
        place, self._written = self._written, self._written + found.second.numel()
        self._file.seek(4 * place)
        found.second.cpu().numpy().tofile(self._file)
        return place, found.mean


def _tap(model: PreTrainedModel, name: str) -> Tap:
    """Return where what a layer reads is observed. A decoder's output layer does not run: it would read what the bare model
    returns.
    """
    layer = model.get_submodule(name)
    return (model.base_model, "out") if is_decoder(model) and layer is adapter_of(model).head(model).out else (layer, "in")


def real_positions(values: Tensor, mask: Tensor) -> Tensor:
    """Return the columns at real tokens, or at some of the positions that are no tokens. -> (positions, columns)"""
    if values.shape[:2] == mask.shape:
        return values[mask.bool()]
    if values.shape[1] > MOST_POSITIONS:
        values = values[:, torch.linspace(0, values.shape[1] - 1, MOST_POSITIONS, device=values.device).long()]
    return values.flatten(0, 1)


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
def run_observed(
    model: PreTrainedModel, collectors: Sequence[Collector], batches: Iterable[Batch]
) -> Generator[None, None, int]:
    """Run batches through a model in evaluation mode while collectors observe it; yield after each, return the rows."""
    training, device, rows = model.training, next(model.parameters()).device, 0
    model.eval()
    try:
        with ExitStack() as hooks:
            for collector in collectors:
                collector.attach(hooks)
            for batch in batches:
                here = batch.to(device)
                for collector in collectors:
                    collector.mask = here.mask
                run(model, here)
                rows += len(here.mask)
                yield
    finally:
        model.train(training)
    return rows
