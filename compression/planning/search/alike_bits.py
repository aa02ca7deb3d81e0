"""Solves the choice of widths, of layers and of each layer's bits exactly, where all layers cost alike. Torch-free.

At given widths a limit says how many layers may have 8 bits and how many must go. Which ones these are follows from their
errors, by a dynamic program over the layers, at all widths at once: after each layer, the least error with so many gone and so
many in 8 bits. A mixed-integer program would have a variable for each layer's bits at each pair of widths.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.planning.search.alike_layers import ALIKE, LAST_DIGITS
from compression.planning.search.mixed_space import MOST_NUMBERS
from compression.planning.search.pivot import solve_by_pivot
from compression.planning.search.problem import Limit, NoCombination, OutOfTime, Picks, Problem, Solution, Term
from compression.planning.search.solver import TIGHTER, out_of_reach

Numbers = NDArray[np.float64]
TOGETHER = 256
"""Combinations of widths that are gone through at once: few enough for a processor's cache."""
MOST_DROPPED = 100
"""Solutions that are excluded, or above a limit by a last digit, after which no further one is looked for."""
FINE, COARSE, GONE = 0, 1, 2  #: states of a layer; GONE exists where layers may go


def solve_mixed(problem: Problem, layers: Sequence[str], bits: Sequence[str], until: float | None = None) -> Solution:
    """Return what errs least within all limits, as `solver.solve` does, with what it raises; programs solve what this cannot.

    layers: names of the choices whether a layer stays (0) or goes (1), or none; bits: of whether each has 8 (0) or 4 (1).
    """
    if until is not None and time.monotonic() > until:
        raise OutOfTime
    tables = _tables_of(problem, layers, bits, until)
    if tables is None:
        return solve_by_pivot(problem, until)
    limits = tuple(limit for limit in problem.limits if limit.excludes is None)
    excluded = [limit.excludes for limit in problem.limits if limit.excludes is not None]
    nearest, proven = None, True
    for _ in range(MOST_DROPPED):
        if (place := tables.best(limits)) is None:
            break
        picks = tables.picks(place)
        if problem.allows(picks):
            return Solution(picks, problem.error_of(picks), problem.costs_of(picks), proven=proven)
        # What is above a limit by a last digit is so whichever layers it is of; others of what is excluded might be allowed.
        proven, nearest = proven and picks not in excluded, nearest or picks
        tables.errors[place] = inf
    else:
        raise OutOfTime
    if nearest is None and (place := tables.nearest(limits)) is not None:
        nearest = tables.picks(place)
    if nearest is None:
        raise NoCombination("no combination of the options exists")
    raise out_of_reach(problem, Solution(nearest, problem.error_of(nearest), problem.costs_of(nearest)))


@dataclass(frozen=True)
class _Sum:
    """A sum of terms at all combinations of widths: what is beside the layers, and what each adds in each state."""

    base: Numbers  #: (widths,)
    states: Numbers  #: (layers, states, widths)

    @property
    def is_alike(self) -> bool:
        """Return whether all layers add the same."""
        return bool(np.allclose(self.states, self.states[:1], rtol=ALIKE, atol=ALIKE, equal_nan=True))


@dataclass
class _Tables:
    """At each combination of widths, by the layers that go and those in 8 bits: the least error, and what each limit costs."""

    widths: Mapping[str, int]  #: name → options
    layers: Sequence[str]
    bits: Sequence[str]
    error: _Sum
    costs: Sequence[_Sum]
    until: float | None = None  #: by time.monotonic

    def __post_init__(self) -> None:
        count, pieces = len(self.bits), []
        for start in range(0, len(self.error.base), TOGETHER):
            if self.until is not None and time.monotonic() > self.until:
                raise OutOfTime
            rows = slice(start, start + TOGETHER)
            found = self._first(self.error.base[rows])
            for each in self.error.states[:, :, rows]:
                found = _joined(found, each)
            pieces.append(found)
        self.errors = np.concatenate(pieces) if pieces else np.empty((0, 1, count + 1))

    def _first(self, base: Numbers) -> Numbers:
        """Return the least errors before all layers. -> (widths, gone + 1, fine + 1)"""
        count = len(self.bits)
        found = np.full((len(base), count + 1 if self.layers else 1, count + 1), inf)
        found[:, 0, 0] = base
        return found

    def best(self, limits: Sequence[Limit]) -> tuple[int, int, int] | None:
        """Return where the error is least within limits; None if nothing is within them."""
        within = self.errors < inf
        for limit, cost in zip(limits, self._spent(limits), strict=True):
            within &= cost <= limit.most + LAST_DIGITS * abs(limit.most)
        if not within.any():
            return None
        row, gone, fine = np.unravel_index(int(np.where(within, self.errors, inf).argmin()), self.errors.shape)
        return int(row), int(gone), int(fine)

    def nearest(self, limits: Sequence[Limit]) -> tuple[int, int, int] | None:
        """Return what costs the smallest share of the limits, and errs least of such; None if all exceeds the firm ones."""
        share = np.where(self.errors < inf, -inf, inf)
        for limit, cost in zip(limits, self._spent(limits), strict=True):
            if limit.firm:
                share[~(cost <= limit.most)] = inf
            else:
                share = np.maximum(share, np.where(np.isnan(cost), inf, cost / max(limit.most, 1e-9)))
        least = float(share.min())
        if abs(least) == inf:
            return None
        eased = (replace(limit, most=max(limit.most, 1e-9) * least * (1 + TIGHTER)) for limit in limits if not limit.firm)
        found = {limit.name: limit for limit in eased}
        return self.best([found.get(limit.name, limit) for limit in limits])

    def picks(self, place: tuple[int, int, int]) -> Picks:
        """Return the picks with the least error at widths and numbers of layers: the program again, there alone, and back."""
        row, gone, fine = place
        states = self.error.states[:, :, row : row + 1]
        steps = [self._first(self.error.base[row : row + 1])]
        for each in states:
            steps.append(_joined(steps[-1], each))
        options = np.unravel_index(row, [*self.widths.values()]) if self.widths else ()
        picks = {name: int(option) for name, option in zip(self.widths, options, strict=True)}
        for number in reversed(range(len(self.bits))):
            before, ways = steps[number][0], []
            for state, added in enumerate(states[number, :, 0]):
                left = (gone - (state == GONE), fine - (state == FINE))
                if min(left) >= 0 and np.isfinite(before[left]):
                    ways.append((float(before[left] + added), state))
            state = min(ways)[1]
            picks[self.bits[number]] = int(state != FINE)
            if self.layers:
                picks[self.layers[number]] = int(state == GONE)
            gone, fine = gone - (state == GONE), fine - (state == FINE)
        return picks

    def _spent(self, limits: Sequence[Limit]) -> Iterator[Numbers]:
        """Yield what each limit costs everywhere. -> as `errors`"""
        _, gone, fine = self.errors.shape
        away, finer = np.arange(gone)[:, None], np.arange(fine)[None, :]
        for limit, cost in zip(limits, self.costs, strict=True):
            each = cost.states[0][:, :, None, None]
            with np.errstate(invalid="ignore"):  # inf is what does not exist
                found = limit.fixed + cost.base[:, None, None] + finer * each[FINE]
                found = found + (len(self.bits) - away - finer) * each[COARSE]
                yield found + away * each[GONE] if self.layers else found


def _joined(least: Numbers, added: Numbers) -> Numbers:
    """Return the least errors with one layer more. least: (widths, gone, fine); added: (states, widths)"""
    each = added[:, :, None, None]
    found: Numbers = least + each[COARSE]
    np.minimum(found[:, :, 1:], least[:, :, :-1] + each[FINE], out=found[:, :, 1:])
    if len(added) > GONE:
        np.minimum(found[:, 1:], least[:, :-1] + each[GONE], out=found[:, 1:])
    return found


def _tables_of(problem: Problem, layers: Sequence[str], bits: Sequence[str], until: float | None) -> _Tables | None:
    """Return the tables of a problem, or None if it is too large, layers do not cost alike, or a number depends on several.

    Raises OutOfTime.
    """
    options = problem.options
    widths = {name: count for name, count in options.items() if name not in {*layers, *bits}}
    size = prod(widths.values()) * (len(bits) + 1) * (len(layers) + 1)
    if size > MOST_NUMBERS or any(options[name] != 2 for name in (*layers, *bits)):
        return None
    limits = (limit for limit in problem.limits if limit.excludes is None)
    sums = [_sum(terms, widths, layers, bits) for terms in (problem.error, *(limit.terms for limit in limits))]
    known = [one for one in sums if one is not None]
    if len(known) < len(sums) or not all(one.is_alike for one in known[1:]):
        return None
    return _Tables(widths, layers, bits, known[0], known[1:], until)


def _sum(terms: Sequence[Term], widths: Mapping[str, int], layers: Sequence[str], bits: Sequence[str]) -> _Sum | None:
    """Return a sum at all combinations of widths; None if a term depends on several layers."""
    total = prod(widths.values())
    base, states = np.zeros(total), np.zeros((len(bits), 3 if layers else 2, total))
    place = {name: number for names in (layers, bits) for number, name in enumerate(names)}
    grid = dict(zip(widths, np.indices([*widths.values()]).reshape(len(widths), -1), strict=True)) if widths else {}
    for term in terms:
        own = [name for name in term.choices if name in place]
        if len({place[name] for name in own}) > 1 or [*term.choices[len(term.choices) - len(own) :]] != own:
            return None
        at = np.zeros(total, np.int64)
        for name in term.choices[: len(term.choices) - len(own)]:
            at = at * widths[name] + grid[name]
        values = np.asarray(term.values, np.float64).reshape(-1, *(2 for _ in own))[at]
        if not own:
            base += values
            continue
        for state in range(states.shape[1]):
            picked = {"layer": int(state == GONE), "bits": int(state != FINE)}
            options = tuple(picked["layer" if name in layers else "bits"] for name in own)
            there: Any = (slice(None), *options)
            states[place[own[0]], state] += values[there]
    return _Sum(base, states)
