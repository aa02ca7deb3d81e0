"""How large the integers of a convolution may be so that no sum of two products leaves 16 bits.

x86 without VNNI multiplies uint8 by int8 two by two: 255 · (|a| + |b|) must not exceed 32,767 for two neighbours a and b of one
sign, so |a| + |b| ≤ 128. Within ±63 that holds for all; but a channel's largest weights are rarely neighbours of one sign
(docs/decisions/0046).
"""

import torch
from torch import Tensor
from torch.nn import functional

from compression.quantization.dynamic_int8 import LEVELS

MOST_OF_TWO = 127
"""Sum of two neighbours before rounding, which may add one: 255 × 128 = 32,640 fits in 16 bits."""


def pair_levels(weight: Tensor) -> Tensor:
    """Return the largest integer of each output channel, 63 to 127. weight: (out, in, height, width) -> (out, 1)

    Neighbours are input channels at one place, as OpenVINO multiplies them, and, if these are of an odd number, also the last
    of one place and the first of the next, as ONNX Runtime does.
    """
    weight = weight.detach()
    places = weight.permute(0, 2, 3, 1)  # (out, height, width, in)
    largest = weight.abs().flatten(1).amax(dim=1)
    sums = _largest_sum(places.flatten(0, 2)).view(len(weight), -1).amax(dim=1)
    if weight.shape[1] % 2:
        sums = torch.maximum(sums, _largest_sum(places.flatten(1)))
    levels = torch.floor(MOST_OF_TWO * largest / sums)
    return torch.where(sums > 0, levels, LEVELS).clamp_max(LEVELS)[:, None]


def _largest_sum(rows: Tensor) -> Tensor:
    """Return the largest absolute sum of the numbers of one sign of two neighbours in each row. (rows, numbers) -> (rows,)"""
    pairs = functional.pad(rows, (0, rows.shape[1] % 2)).view(len(rows), -1, 2)
    above, below = pairs.clamp_min(0).sum(dim=2), pairs.clamp_max(0).sum(dim=2)
    return torch.maximum(above, -below).amax(dim=1)
