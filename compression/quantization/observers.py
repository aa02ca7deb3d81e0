"""Observers: what was seen of a layer's input, and the range that is made of it. Pure; who listens is `calibration`.

Values are kept as counts in buckets whose width is a fixed share of the value, so that one pass suffices whatever the
scale: an outlier of a thousand takes nothing from the precision of what lies near zero.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compression.quantization.static_int8 import TOP, Range
from compression.schema.recipe.base import Observer

STEPS = 32
"""Buckets an octave: a value is known to 2.2 %."""
LOWEST, HIGHEST = -30, 30
"""Exponents of two. What is smaller counts as zero, what is larger as the largest; the extremes themselves are kept apart."""
SIDE = (HIGHEST - LOWEST) * STEPS
CANDIDATES = 100
"""Shares of a side that the mse observer tries."""


@dataclass
class Spread:
    """How the values of one tensor are spread, over all batches. counts: (2 · SIDE + 1,), the middle one for zero."""

    low: float = math.inf
    high: float = -math.inf
    counts: Tensor = field(default_factory=lambda: torch.zeros(2 * SIDE + 1, dtype=torch.float64))

    def add(self, x: Tensor) -> None:
        """Count the elements of x, of any shape, at least one."""
        x = torch.nan_to_num(x.detach().float().flatten())
        self.low, self.high = min(self.low, x.min().item()), max(self.high, x.max().item())
        bucket = torch.floor((torch.log2(x.abs()) - LOWEST) * STEPS).clamp_(-1, SIDE - 1).long() + 1
        place = torch.where(x < 0, SIDE - bucket, SIDE + bucket)
        self.counts += torch.bincount(place, minlength=2 * SIDE + 1).double().cpu()

    def values(self) -> tuple[Tensor, Tensor]:
        """Return what was seen, ascending, and how often. -> (n,), (n,)

        A bucket stands for its middle, but never for more than was seen.
        """
        side = torch.exp2(LOWEST + (torch.arange(SIDE, dtype=torch.float64) + 0.5) / STEPS)
        values = torch.cat([-side.flip(0), torch.zeros(1, dtype=torch.float64), side]).clamp(self.low, self.high)
        seen = self.counts > 0
        return values[seen], self.counts[seen]

    def magnitudes(self) -> tuple[Tensor, Tensor]:
        """Return the absolute values seen, ascending, and how often. -> (n,), (n,)"""
        values, counts = self.values()
        values = values.abs()
        order = values.argsort()
        return values[order], counts[order]

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(-self.low, self.high)


def range_of(spread: Spread, observer: Observer, percent: float) -> Range:
    """Make a range of what was seen. percent: of the observer percentile."""
    if observer == "min-max":
        return spread.low, spread.high
    values, counts = spread.values()
    if observer == "percentile":
        return percentile_range(values, counts, percent)
    return least_error_range(values, counts, spread.low, spread.high)


def quantile(values: Tensor, counts: Tensor, share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed. values ascending (n,), counts (n,)."""
    below = counts.cumsum(0) / counts.sum()
    return values[min(int((below < share - 1e-12).sum()), len(values) - 1)].item()


def percentile_range(values: Tensor, counts: Tensor, percent: float) -> Range:
    """Return a range outside of which (100 − percent) per cent of the values lie, half of them on either side."""
    outside = (1 - percent / 100) / 2
    return quantile(values, counts, outside), quantile(values, counts, 1 - outside)


def least_error_range(values: Tensor, counts: Tensor, low: float, high: float) -> Range:
    """Shrink a range to where clipping and rounding together have the least squared error (Nagel et al. 2021, section 3.1).

    values, counts: (n,). Both ends in turn, twice, over CANDIDATES shares of what was seen.
    """
    shares = torch.arange(1, CANDIDATES + 1, dtype=torch.float64) / CANDIDATES
    lows, highs = min(low, 0.0) * shares, max(high, 0.0) * shares
    low, high = lows[-1].item(), highs[-1].item()
    for _ in range(2):
        high = highs[squared_errors(values, counts, torch.full_like(highs, low), highs).argmin()].item()
        low = lows[squared_errors(values, counts, lows, torch.full_like(lows, high)).argmin()].item()
    return low, high


def squared_errors(values: Tensor, counts: Tensor, lows: Tensor, highs: Tensor) -> Tensor:
    """Sum the squared errors of rounding to each of m ranges that hold 0. values, counts: (n,), lows, highs: (m,) -> (m,)."""
    scales = ((highs - lows) / TOP).clamp_min(1e-12)[:, None]
    zeros = torch.round(-lows[:, None] / scales)
    rounded = (torch.round(values / scales) + zeros).clamp(0, TOP)
    return ((rounded - zeros) * scales - values).square() @ counts


def levels_used(counts: Tensor) -> float:
    """Say how many levels are used in effect: 2 to the entropy of how often each occurs. counts: (levels,) -> 1 to levels."""
    share = counts[counts > 0].double() / counts.sum()
    return float(torch.exp2(-(share * share.log2()).sum()))
