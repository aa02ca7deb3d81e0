"""One cut for models in memory and checkpoints on disk: the narrower config and each tensor's slice."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.pruning_groups import Tensors, Width


@dataclass(frozen=True)
class Cut:
    """What a plan makes of a model, before any weight is read."""

    before: PretrainedConfig
    config: PretrainedConfig  #: the narrower one
    tensors: Tensors  #: of the whole model, with their widths
    plan: PruningPlan
    stack: str  #: prefix of the names of tensors in layers
    after: Callable[["Cut", str, Tensor], Tensor]  #: a family's `after_cut`

    def source(self, name: str) -> str:
        """Return the name in the whole model of the tensor that a tensor of the narrower model comes from."""
        number = self.layer_of(name)
        if number is None or self.plan.layers is None:
            return name
        return name.replace(f"{self.stack}{number}.", f"{self.stack}{self.plan.layers[number]}.", 1)

    def layer_of(self, name: str) -> int | None:
        """Return the number of the layer that holds a tensor, or None outside of layers."""
        found = re.match(rf"{re.escape(self.stack)}(\d+)\.", name)
        return int(found[1]) if found else None

    def of(self, name: str, whole: Tensor) -> Tensor:
        """Cut a tensor; the result is never a view. name: in the narrower model; whole: its source in the whole model."""
        source = self.source(name)
        cut = whole
        for dim, width in enumerate(self.tensors.get(source, ())):
            kept = self.indices(width)
            if kept is None:
                continue
            if kept.ndim == 1:
                cut = cut.index_select(dim, kept.to(whole.device))
            else:  # each unit of the first dimension keeps its own indices
                cut = torch.stack([one.index_select(dim - 1, some) for one, some in zip(cut, kept.to(cut.device), strict=True)])
        return self.after(self, source, whole.clone() if cut is whole else cut)

    def outputs(self, layer: str, values: Tensor, dim: int) -> Tensor:
        """Return the outputs that a cut layer aims at. values: (tokens, outputs) of the whole; dim: of its weight's outputs."""
        kept = self.indices(self.tensors[f"{layer}.weight"][dim])
        return self.after(self, f"{layer}.bias", values if kept is None else values[:, kept.to(values.device)])

    def indices(self, width: int) -> Tensor | None:
        """Return the indices of a dimension that stay: (n,), or (units, n) by the first dimension's unit; None: all stay."""
        if not isinstance(width, Width):
            return None
        kept = self.plan.of(width.axis, width.layer)
        channels = self.plan.of(width.channels, width.layer) if width.channels is not None else None
        if kept is None and channels is None:
            return None
        units = torch.arange(width.units) if kept is None else kept
        rows = units if width.unit_size == 1 else unit_indices(units, width.unit_size, channels)
        span = width.units * width.unit_size
        behind = [torch.arange(span * width.repeats, width)] if rows.ndim == 1 else []
        return torch.cat([*(rows + number * span for number in range(width.repeats)), *behind], dim=-1)


def unit_indices(units: Tensor, size: int, channels: Tensor | None = None) -> Tensor:
    """Return the indices of units, or of their channels. units: (n,), channels: (n, m) from 0 -> (n × size,) or (n × m,)"""
    return (units[:, None] * size + (torch.arange(size) if channels is None else channels)).flatten()


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """Multiply in float32, and round to the tensor's own dtype."""
    return tensor if factor == 1 else (tensor.float() * factor).to(tensor.dtype)


def same_count(counts: Sequence[int], what: str) -> int:
    """Return the count that all layers share. Raises ValueError if the counts differ."""
    if len(set(counts)) > 1:
        raise ValueError(f"layers must keep as many {what} each: {list(counts)}")
    return counts[0]
