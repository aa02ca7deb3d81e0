"""Says from the sizes tried which size is expected to keep a target: what is kept over the predicted error. Torch-free, pure.

What is kept falls with the predicted error, so points that rise are pooled (isotonic regression). Between two of them it is on
a straight line, before the first one on the line from an error of 0, which keeps all; beyond the last on the line to it from 0.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import fmean

from compression.schema.report.size_search import KeptAfter, SizeTried

MOST_GAIN = 0.5
"""The largest power of steps that losses are taken to fall with: curves of a few epochs under a falling rate are steeper."""
MOST_STEPS = 100
"""Times as many steps as were trained, of which curves of some epochs still tell something."""
LEAST_LOST = 1e-3
"""Shares lost that are smaller than this say nothing of how losses fall."""

MOST_SCALED = 10.0
"""The most that expected losses are scaled up or down by, after a full training."""
HALVINGS = 6
"""Of the range of shares, each with one solution: 1.5 % of it is left."""


@dataclass(frozen=True)
class SizeFit:
    """Points from small errors to large ones, what each keeps falling from left to right; the first is (0, 1)."""

    points: tuple[tuple[float, float], ...]
    margin: float  #: standard error of what is kept

    def kept_at(self, error: float) -> float:
        """Return the expected share kept at a predicted error."""
        for (left, high), (right, low) in zip(self.points, self.points[1:], strict=False):
            if error <= right:
                return high + (low - high) * (error - left) / (right - left)
        last, low = self.points[-1]
        return max(1 + (low - 1) * error / last, 0.0) if last > 0 else low

    def keeps(self, error: float, target: float) -> bool:
        """Return whether a predicted error is expected to keep the target, with the margin; of that no more than half of what
        the target lets go, either way: on few rows it is larger than all of that, and then no size would be expected to keep
        the target, or where the margin is in a size's favour, any would.
        """
        most = max(1 - target, 0.0) / 2
        return self.kept_at(error) - min(max(self.margin, -most), most) >= target


def fit_sizes(tried: Iterable[SizeTried]) -> SizeFit:
    """Return the fit of the sizes tried. What a full training kept counts in place of what was expected of that size."""
    known: dict[float, tuple[float, float]] = {}
    for one in sorted(tried, key=lambda each: each.kind == "full"):
        found = one.kept if one.kind == "full" else one.expected
        if found is not None and one.error > 0:
            known[one.error] = (found, one.kept_error or 0.0)
    pooled: list[tuple[float, float, int]] = [(0.0, 1.0, 1)]
    for error, (kept, _) in sorted(known.items()):
        pooled.append((error, min(kept, 1.0), 1))
        while len(pooled) > 2 and pooled[-1][1] > pooled[-2][1]:
            (left, high, some), (right, low, more) = pooled[-2:]
            count = some + more
            pooled[-2:] = [((some * left + more * right) / count, (some * high + more * low) / count, count)]
    errors = [found for _, found in known.values()]
    margin = fmean(errors) / sqrt(len(errors)) if errors else 0.0
    return SizeFit(tuple((error, kept) for error, kept, _ in pooled), margin)


def expect(tried: Sequence[SizeTried], steps: int, curves: Sequence[Sequence[KeptAfter]] = ()) -> tuple[list[SizeTried], float]:
    """Return the sizes with what a full distillation of each is expected to keep, and the power of steps with which losses
    fall. steps: of a full distillation; curves: others, which tell the power if the sizes' own do not.

    If some were trained fully, what the others are expected to lose is scaled by what those lost in place of what was expected.
    Of a size that was trained fully itself, what that kept is expected.
    """
    own = gain_exponent([one.curve for one in tried if one.kind == "short"])
    gain = (gain_exponent(curves) if own is None else own) or 0.0
    short = [one for one in tried if one.kind == "short" and one.kept is not None]
    found = [one.model_copy(update={"expected": extrapolate(one.kept or 0.0, one.steps, steps, gain)}) for one in short]
    full = [one for one in tried if one.kind == "full" and one.kept is not None]
    if full and found:
        fit = fit_sizes(found)
        ratios = [(1 - (one.kept or 0.0)) / max(1 - fit.kept_at(one.error), LEAST_LOST) for one in full]
        scale = min(max(fmean(ratios), 1 / MOST_SCALED), MOST_SCALED)  # one that lost nothing does not say that none does
        same = {one.error: one.kept for one in full}
        scaled = ((one, 1 - scale * (1 - (one.expected or 0.0))) for one in found)
        found = [one.model_copy(update={"expected": same.get(one.error, expected)}) for one, expected in scaled]
    known = iter(found)
    return [next(known) if one in short else one for one in tried], gain


def smallest_share(fit: SizeFit, target: float, error_at: Callable[[float], float], low: float, high: float) -> float:
    """Return the smallest share between two that is expected to keep the target, with the margin; the larger one if none is.

    error_at: the error that the solver predicts for a share; it falls with the share.
    """
    if fit.keeps(error_at(low), target):
        return low
    if not fit.keeps(error_at(high), target):
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fit.keeps(error_at(middle), target) else (middle, high)
    return high


def gain_exponent(curves: Sequence[Sequence[KeptAfter]]) -> float | None:
    """Return the power of steps with which the shares lost fall, of curves that each have a height of their own: the slope of
    its logarithms, from 0 (no gain by more steps) to MOST_GAIN. None if no curve has two epochs that lost something.
    """
    above = below = 0.0
    for curve in curves:
        pairs = [(log(one.steps), log(1 - one.kept)) for one in curve if one.steps and 1 - one.kept > LEAST_LOST]
        if len(pairs) < 2:
            continue
        center, height = fmean(steps for steps, _ in pairs), fmean(lost for _, lost in pairs)
        above += sum((steps - center) * (lost - height) for steps, lost in pairs)
        below += sum((steps - center) ** 2 for steps, _ in pairs)
    return min(max(-above / below, 0.0), MOST_GAIN) if below else None


def extrapolate(kept: float, steps: int, to: int, gain: float) -> float:
    """Return the share that is expected after `to` steps of a distillation that kept a share after `steps`."""
    lost = 1 - kept
    if lost <= 0 or to <= steps:
        return kept
    return 1 - lost * exp(-gain * log(to / steps))


def steps_needed(kept: float, steps: int, target: float, gain: float) -> float:
    """Return the steps after which the target is expected to be kept; infinity if more steps gain nothing, all is asked, or it
    would take more than MOST_STEPS as many: curves so short tell nothing of that.
    """
    lost, allowed = 1 - kept, 1 - target
    if lost <= allowed:
        return float(steps)
    if gain <= 0 or allowed <= 0 or log(lost / allowed) > gain * log(MOST_STEPS):
        return inf
    return steps * exp(log(lost / allowed) / gain)
