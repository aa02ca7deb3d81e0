"""How far a cut must go, and how long training must last: the estimates behind remedies. Torch-free, pure."""

import math

POWER = 1.5
"""Exponent of a size in the share of each axis that is left, unless a cut has shown it: 1 if one side shrinks, 2 if both."""


def ratio_for(start: float, now: float, wanted: float, ratio: float | None) -> float:
    """Estimate the ratio at which a size falls to `wanted`: size = start · (1 − ratio)^power. Returns at least 0, below 1.

    start, now, wanted: the size before the cut, after it at `ratio`, and at the target, in one unit. The power is
    measured from the cut and clamped to 0.5 … 2.5; POWER if there was no cut or it showed nothing.
    """
    power = POWER
    if ratio is not None and 0 < now < start:
        power = min(max(math.log(now / start) / math.log(1 - ratio), 0.5), 2.5)
    return max(1 - math.pow(wanted / start, 1 / power), 0.0)


def epochs_for(fall: float, left: float, may_stay: float, epochs: int) -> int | None:
    """Estimate the epochs after which at most `may_stay` of a fall is left, if each leaves the same share of what was missing.

    fall: the cut's loss; left: of it after `epochs`; in units of worth. None if no number of epochs would suffice: nothing was
    recovered, or the model before the cut was below the target.
    """
    if not 0 < left < fall or not 0 < may_stay < fall:
        return None
    return math.ceil(epochs * math.log(may_stay / fall) / math.log(left / fall))
