"""Says which size is distilled fully next, from those that were tried, and which of them goes on."""

from collections.abc import Sequence
from dataclasses import replace

from compression.engine.stages.size_solver import SizeSolver
from compression.planning.size_fit import SizeFit, fit_sizes, smallest_share
from compression.schema.report.size_search import SizeSearch, SizeTried
from compression.schema.report.targets import reaches

APART = 0.04
"""Share of the whole model that lies between two sizes at least, where the fit chooses them."""
NEAR = 0.05
"""Share of the whole model: a size that missed the target and is no further below the one that goes on shows that none smaller
keeps it.
"""


def another_share(record: SizeSearch, solver: SizeSolver, *, last: bool) -> tuple[float, str | None]:
    """Return the share that is distilled next, above those that missed the target and below those that met it; or return why
    there is none. last: whether there is no time for a further one after it.

    Until one has met the target it is the smallest that is expected to keep it; with the margin if it is the last, since a size
    that misses then costs the job its answer, and before that only the time of a training. After that it is the smallest that
    is expected to, or that may: the margin is in its favour then, and a size that missed by no more than its own error does not
    bound it. Where one missed so, what may goes first, unless it is the last. If there is neither, it is a smaller one whose
    short distillation says that it keeps the target, however near it lies, or else the next below the one that met the target,
    which either is smaller or shows that none smaller keeps it.
    """
    fit, done = fit_sizes(record.tried), [record.tried[at] for at in fully(record)]
    missed, even = [one for one in done if not _keeps(record, one)], replace(fit, margin=0.0)
    met = [one for one in done if _keeps(record, one)]
    if not met:
        return _between(record, solver, missed, fit if last else even)
    surely = [one for one in missed if (one.kept or 0.0) + (one.kept_error or 0.0) < record.retention]
    tries = [(missed, even), (surely, replace(fit, margin=-fit.margin))]
    for bounds, each in tries if last or len(surely) == len(missed) else reversed(tries):
        share, why = _between(record, solver, bounds, each)
        if why is None:
            return share, None
    if (promising := _promising(record, solver, done, surely)) is not None:
        return promising, None
    return _below(solver, missed, met)


def _promising(record: SizeSearch, solver: SizeSolver, done: Sequence[SizeTried], surely: Sequence[SizeTried]) -> float | None:
    """Return the least share of those distilled shortly that are expected to keep the target, below what has met it and above
    what surely misses it; None if all of them were distilled fully.
    """
    met, bound = [one for one in done if _keeps(record, one)], max((one.cost for one in surely), default=0.0)
    expected = [one for one in record.tried if one.kind == "short" and reaches(one.expected or 0.0, record.retention)]
    between = [one.share for one in expected if bound < one.cost < _smallest(met)]
    return min((share for share in between if not any(solver.is_at(share, one) for one in done)), default=None)


def _between(record: SizeSearch, solver: SizeSolver, missed: Sequence[SizeTried], fit: SizeFit) -> tuple[float, str | None]:
    """Return the smallest share that a fit expects to keep the target, above those that missed it, or why there is none."""
    done = [record.tried[at] for at in fully(record)]
    met = [one for one in done if _keeps(record, one)]
    low = _above(missed) if missed else min(one.share for one in record.tried) / 2
    high = _smallest(met) - APART if met else solver.mildest
    while low + APART <= high and any(solver.is_at(low, one) for one in missed):
        low += APART  # widths may go in larger steps than that
    if low > high:
        return high, "no size lies between those that were tried" if met else "no milder cut is left"
    share = smallest_share(fit, record.retention, solver.error_at, low, high)
    if any(abs(one.share - share) < 0.9 * APART or solver.is_at(share, one) for one in done):
        return share, "the next size would be one of these"
    if met and not fit.keeps(solver.error_at(share), record.retention):
        return share, "no smaller size is expected to keep the target"
    return share, None


def _below(solver: SizeSolver, missed: Sequence[SizeTried], met: Sequence[SizeTried]) -> tuple[float, str | None]:
    """Return the next share below the smallest that met the target, or why there is none."""
    high = _smallest(met)
    below = [one for one in missed if one.cost < high]
    low = max((max(one.share, one.cost) for one in below), default=0.0)
    # Widths go in steps, so that sizes cost less than the shares they were allowed, but at the deepest cut more.
    if below and (low >= high or min(one.cost for one in met) - max(one.cost for one in below) <= NEAR):
        return high, "no size lies between the smallest that met the target and the next one, which missed it"
    share = max(high - APART, (low + high) / 2)
    if any(solver.is_at(share, one) for one in (*missed, *met)):
        return share, "no smaller size is left"
    return share, None


def _keeps(record: SizeSearch, one: SizeTried) -> bool:
    return reaches(one.kept or 0.0, record.retention)


def _above(missed: Sequence[SizeTried]) -> float:
    """Return the least share above sizes. At the deepest cut a size costs more than its share allows."""
    return max(max(one.share, one.cost) for one in missed) + APART


def _smallest(met: Sequence[SizeTried]) -> float:
    """Return the least of what sizes cost: widths go in steps, so that it is less than their shares allow."""
    return min(min(one.share, one.cost) for one in met)


def fully(record: SizeSearch) -> list[int]:
    """Return the places of the sizes that were trained fully, or are next to be."""
    return [at for at, one in enumerate(record.tried) if one.kind == "full"]


def preference(record: SizeSearch, place: int) -> tuple[bool, float]:
    """Return by what sizes are preferred, the least first: the smallest of those that meet the target, else what keeps most."""
    size = record.tried[place]
    return (False, size.cost) if _keeps(record, size) else (True, -(size.kept or 0.0))
