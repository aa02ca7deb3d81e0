"""Observers: a histogram of a layer's input, and the range computed from it. Pure functions; `calibration` has the hooks.

A bucket's width is a fixed share of its values, so one pass suffices at any scale, and outliers cost no precision near zero.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compression.quantization.dynamic_int8 import LEVELS
from compression.quantization.static_int8 import SIGNED, TOP, Range, symmetric
from compression.schema.recipe.base import Observer

STEPS = 32  #: buckets per octave, so values have a resolution of 2.2 %
LOWEST, HIGHEST = -30, 30
"""Exponents of two. Smaller values count as zero and larger ones as the largest bucket; min and max are stored separately."""
SIDE = (HIGHEST - LOWEST) * STEPS
MOST = 1 << 22
"""Elements of a tensor that are counted: a batch of maps has many times as many, and no observer's range needs them."""
CANDIDATES = 100  #: number of shares of each end of the range that the mse observer tries


@dataclass
class Spread:
    """Histogram of a tensor's values over all batches. counts: (2 · SIDE + 1,), the middle one for zero."""

    low: float = math.inf
    high: float = -math.inf
    counts: Tensor = field(default_factory=lambda: torch.zeros(2 * SIDE + 1, dtype=torch.float64))

    def add(self, x: Tensor, some: Tensor | None = None) -> None:
        """Count the elements of x, of any shape, with at least one element (`drawn`), or only `some` of them."""
        x = x.detach().flatten()
        ends = torch.stack(x.aminmax()).float()
        if not ends.isfinite().all():
            x = torch.nan_to_num(x.float())
            ends = torch.stack(x.aminmax())
        self.low, self.high = min(self.low, ends[0].item()), max(self.high, ends[1].item())
        x = (drawn(x) if some is None else torch.nan_to_num(some.detach().flatten())).float()
        bucket = torch.floor((torch.log2(x.abs()) - LOWEST) * STEPS).clamp_(-1, SIDE - 1).long() + 1
        place = torch.where(x < 0, SIDE - bucket, SIDE + bucket)
        self.counts += torch.bincount(place, minlength=2 * SIDE + 1).double().cpu()

    def values(self) -> tuple[Tensor, Tensor]:
        """Return the observed values, the middles of their buckets, in ascending order, and their counts. -> (n,), (n,)"""
        side = torch.exp2(LOWEST + (torch.arange(SIDE, dtype=torch.float64) + 0.5) / STEPS)
        values = torch.cat([-side.flip(0), torch.zeros(1, dtype=torch.float64), side]).clamp(self.low, self.high)
        seen = self.counts > 0
        return values[seen], self.counts[seen]

    def magnitudes(self) -> tuple[Tensor, Tensor]:
        """Return the observed absolute values in ascending order and their counts. -> (n,), (n,)"""
        values, counts = self.values()
        values = values.abs()
        order = values.argsort()
        return values[order], counts[order]

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(-self.low, self.high)


def drawn(x: Tensor, most: int = MOST) -> Tensor:
    """Return all elements of a tensor, or `most` of them if they are more. -> (elements,)"""
    return _some(x.flatten(), most)


def drawn_rows(x: Tensor, most: int) -> Tensor:
    """Return all rows of a tensor, or as many as have about `most` elements. x: (..., features) -> (rows, features)"""
    return _some(x.flatten(end_dim=-2), math.ceil(most / x.shape[-1]))


def _some(x: Tensor, most: int) -> Tensor:
    if len(x) <= most:
        return x
    # At random: any fixed step would see some columns of a map alone.
    return x[torch.randint(len(x), (most,), generator=torch.Generator().manual_seed(0)).to(x.device)]


def range_of(spread: Spread, observer: Observer, percent: float, *, around_zero: bool = False) -> Range:
    """Compute a range from a histogram. percent: for the percentile observer; around_zero: find a symmetric range."""
    if around_zero:
        return symmetric(_largest(spread, observer, percent))
    if observer == "min-max":
        return spread.low, spread.high
    values, counts = spread.values()
    if observer == "percentile":
        return percentile_range(values, counts, percent)
    return least_error_range(values, counts, spread.low, spread.high)


def _largest(spread: Spread, observer: Observer, percent: float) -> float:
    """Return the largest absolute value of a symmetric range."""
    if observer == "min-max":
        return spread.largest
    if observer == "percentile":
        return quantile(*spread.magnitudes(), percent / 100)
    ends = spread.largest * torch.arange(1, CANDIDATES + 1, dtype=torch.float64) / CANDIDATES
    return ends[squared_errors(*spread.values(), -ends * SIGNED / LEVELS, ends).argmin()].item()


def quantile(values: Tensor, counts: Tensor, share: float) -> float:
    """Return the smallest value that at least `share` of all values do not exceed. values: (n,), ascending; counts: (n,)."""
    below = counts.cumsum(0) / counts.sum()
    return values[min(int((below < share - 1e-12).sum()), len(values) - 1)].item()


def percentile_range(values: Tensor, counts: Tensor, percent: float) -> Range:
    """Return the range that excludes (100 − percent) per cent of the values, half of them on each side."""
    outside = (1 - percent / 100) / 2
    return quantile(values, counts, outside), quantile(values, counts, 1 - outside)


def least_error_range(values: Tensor, counts: Tensor, low: float, high: float) -> Range:
    """Shrink a range to minimize the squared error of clipping and rounding (Nagel et al. 2021, section 3.1).

    values, counts: (n,). Optimizes each end in turn, twice, over CANDIDATES shares of the observed range.
    """
    shares = torch.arange(1, CANDIDATES + 1, dtype=torch.float64) / CANDIDATES
    lows, highs = min(low, 0.0) * shares, max(high, 0.0) * shares
    low, high = lows[-1].item(), highs[-1].item()
    for _ in range(2):
        high = highs[squared_errors(values, counts, torch.full_like(highs, low), highs).argmin()].item()
        low = lows[squared_errors(values, counts, lows, torch.full_like(lows, high)).argmin()].item()
    return low, high


def squared_errors(values: Tensor, counts: Tensor, lows: Tensor, highs: Tensor) -> Tensor:
    """Return the squared error of each of m ranges that include 0. values, counts: (n,), lows, highs: (m,) -> (m,)."""
    scales = ((highs - lows) / TOP).clamp_min(1e-12)[:, None]
    zeros = torch.round(-lows[:, None] / scales)
    rounded = (torch.round(values / scales) + zeros).clamp(0, TOP)
    return ((rounded - zeros) * scales - values).square() @ counts


def levels_used(counts: Tensor) -> float:
    """Return the effective number of levels: 2 to the entropy of their frequencies. counts: (levels,) -> 1 to levels."""
    share = counts[counts > 0].double() / counts.sum()
    return float(torch.exp2(-(share * share.log2()).sum()))
