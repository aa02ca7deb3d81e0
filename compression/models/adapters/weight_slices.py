"""What a cut leaves of each weight: pure functions from the whole tensor to the slice, put together by names of parameters.

A choice of indices (None: all of them) names what stays on an axis. Slices are new tensors, never views of the model that is
cut, and have its type of number.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Slice = Callable[[Tensor], Tensor]
Slices = dict[str, Slice]
"""By the parameter's or buffer's name in the whole model. What has no entry stays as it is."""


def taken(*axes: Tensor | None) -> Slice:
    """Keep some indices of each axis; of axes that are not named, all."""

    def slice_of(whole: Tensor) -> Tensor:
        cut = whole
        for axis, kept in enumerate(axes):
            if kept is not None:
                cut = cut.index_select(axis, kept.to(whole.device))
        return whole.clone() if cut is whole else cut

    return slice_of


def linear(name: str, rows: Tensor | None, columns: Tensor | None) -> Slices:
    """Keep outputs and inputs of an nn.Linear, whose weight is (outputs, inputs), and of its bias, if it has one."""
    return {f"{name}.weight": taken(rows, columns), f"{name}.bias": taken(rows)}


def conv1d(name: str, rows: Tensor | None, columns: Tensor | None) -> Slices:
    """Keep outputs (rows) and inputs (columns) of GPT-2's Conv1D, whose weight is (inputs, outputs)."""
    return {f"{name}.weight": taken(columns, rows), f"{name}.bias": taken(rows)}


def layer_norm(name: str, kept: Tensor) -> Slices:
    """Keep channels of a LayerNorm. Mean and variance are then those of fewer channels, and no factor mends that."""
    return {f"{name}.weight": taken(kept), f"{name}.bias": taken(kept)}


def rms_norm(name: str, kept: Tensor, width: int) -> Slices:
    """Keep channels of an RMSNorm over `width`, such that it does to them what it did when the others were 0.

    RMSNorm gives w · x / √(Σx²/n + ε). With the others 0 the sum is the same over fewer channels, so only n changes, and

        w / √(Σx²/n + ε)  =  w √(n/m) / √(Σx²/m + ε n/m)    for m channels of n:

    the weight grows by √(n/m), and ε by n/m, where the config has one for such norms alone. In 16 bits the product is rounded.
    """
    factor = math.sqrt(width / len(kept))
    cut = taken(kept)
    return {f"{name}.weight": lambda whole: (cut(whole).float() * factor).to(whole.dtype)}


def experts(name: str, kept: Tensor, units: Tensor, hidden: Tensor) -> Slices:
    """Keep some experts and some units of each, in the fused tensors of stock transformers.

    kept: (n,), units: (n, width), hidden: channels of the stream. gate_up_proj is (experts, 2 × width, hidden), the gates
    first; down_proj (experts, hidden, width).
    """

    def gates_and_ups(whole: Tensor) -> Tensor:
        here = units.to(whole.device)
        rows = torch.cat([here, here + whole.shape[1] // 2], dim=1)
        return whole[kept.to(whole.device)[:, None], rows].index_select(2, hidden.to(whole.device))

    def downs(whole: Tensor) -> Tensor:
        some = whole.index_select(0, kept.to(whole.device)).index_select(1, hidden.to(whole.device))
        columns = units.to(whole.device)[:, None].expand(-1, some.shape[1], -1)
        return some.gather(2, columns)

    return {f"{name}.gate_up_proj": gates_and_ups, f"{name}.down_proj": downs}
