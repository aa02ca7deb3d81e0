"""Solves the choice of widths and of layers that all cost alike, exactly, by going through all widths. Torch-free.

At given widths a limit says how many layers must go, and which ones these are follows from their errors alone: those whose
absence adds least, or the next such set if these are excluded. A mixed-integer program of the same takes up to a minute for 12
layers, this a fraction of a second.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import inf, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.planning.search.pivot import solve_by_pivot
from compression.planning.search.problem import Limit, OutOfTime, Picks, Problem, Solution, Term
from compression.planning.search.solver import TIGHTER, out_of_reach, solve

Numbers = NDArray[np.float64]
MOST_COMBINATIONS = 500_000
"""Of widths and numbers of layers that are gone through, a number of 8 bytes each; a problem of more is solved as a program."""
ALIKE = 1e-9
"""Difference between what layers add that is none, absolute or as a share."""
LAST_DIGITS = 1e-12
"""Share of a limit by which a sum in another order may be above it."""


def solve_alike(problem: Problem, layers: Sequence[str], until: float | None = None) -> Solution:
    """Return what errs least within all limits, as `solver.solve` does, with what it raises; programs solve what this cannot.

    layers: names of the choices whether a layer stays (0) or goes (1).
    """
    if until is not None and time.monotonic() > until:
        raise OutOfTime
    widths = [choice.name for choice in problem.choices if choice.name not in {*layers}]
    if prod(problem.options[name] for name in widths) * (len(layers) + 1) > MOST_COMBINATIONS:
        return solve_by_pivot(problem, until)
    limits = tuple(limit for limit in problem.limits if limit.excludes is None)
    sums = [_sum(terms, layers, problem.options) for terms in (problem.error, *(limit.terms for limit in limits))]
    if not all(one is not None and (one.may_stay if at == 0 else one.is_alike) for at, one in enumerate(sums)):
        return solve_by_pivot(problem, until)
    excluded = [limit.excludes for limit in problem.limits if limit.excludes is not None]
    rows = _Rows(widths, tuple(layers), problem.options, [one for one in sums if one is not None], excluded)
    nearest = None
    while (found := rows.best(limits)) is not None:
        if problem.allows(found):
            return Solution(found, problem.error_of(found), problem.costs_of(found))
        nearest = nearest or found  # it is above a limit by a last digit
        rows.drop(found)
    nearest = nearest or rows.nearest(limits)
    if nearest is None:
        return solve(problem, until)
    raise out_of_reach(problem, Solution(nearest, problem.error_of(nearest), problem.costs_of(nearest)))


def _unit(limit: Limit) -> float:
    return max(limit.most, 1e-9)


@dataclass(frozen=True)
class _Part:
    """At each combination of the options of some widths: what is spent whatever layers go, and by layer what it adds."""

    base: Numbers
    stay: Numbers  #: (combinations, layers)
    gone: Numbers


@dataclass(frozen=True)
class _Sum:
    """A sum of terms, by the choices of widths that they depend on."""

    parts: Mapping[tuple[str, ...], _Part]

    @property
    def is_alike(self) -> bool:
        """Return whether all layers add the same."""
        each = [values for part in self.parts.values() for values in (part.stay, part.gone) if values.size]
        return all(np.allclose(values, values[:, :1], rtol=ALIKE, atol=ALIKE) for values in each)

    @property
    def may_stay(self) -> bool:
        """Return whether all layers may stay, from which what others err is reckoned."""
        return all(bool(np.isfinite(part.stay).all()) for part in self.parts.values())

    def at(self, picks: Mapping[str, NDArray[np.int64]], options: Mapping[str, int]) -> _Part:
        """Return this sum at many widths. picks: the option of each choice there."""
        found = []
        for names, part in self.parts.items():
            place: Any = np.zeros(next(iter(picks.values())).shape if picks else (1,), np.int64)
            for name in names:
                place = place * options[name] + picks[name]
            found.append(_Part(part.base[place], part.stay[place], part.gone[place]))
        return _Part(*(sum(getattr(part, name) for part in found) for name in ("base", "stay", "gone")))


def _sum(terms: Sequence[Term], layers: Sequence[str], options: Mapping[str, int]) -> _Sum | None:
    """Return a sum, or None if a term depends on several layers."""
    place = {name: at for at, name in enumerate(layers)}

    def empty(names: tuple[str, ...]) -> _Part:
        size = prod(options[name] for name in names)
        return _Part(np.zeros(size), np.zeros((size, len(layers))), np.zeros((size, len(layers))))

    parts: dict[tuple[str, ...], _Part] = {(): empty(())}
    for term in terms:
        own = [name for name in term.choices if name in place]
        if len(own) > 1 or (own and term.choices[-1] != own[0]):
            return None
        names, values = tuple(name for name in term.choices if name not in place), np.asarray(term.values, np.float64)
        if names not in parts:
            parts[names] = empty(names)
        if own:
            parts[names].stay[:, place[own[0]]] += values[0::2]
            parts[names].gone[:, place[own[0]]] += values[1::2]
        else:
            parts[names].base[:] += values
    return _Sum(parts)


class _Rows:
    """At each combination of widths, by the number of layers that go: the least error, and what each limit then costs."""

    def __init__(
        self,
        widths: Sequence[str],
        layers: Sequence[str],
        options: Mapping[str, int],
        sums: Sequence[_Sum],
        excluded: Sequence[Picks],
    ) -> None:
        """sums: of the error and of each limit."""
        self.widths, self.layers, self.options = widths, layers, options
        error, *costs = sums
        grid: Any = np.indices([options[name] for name in widths]).reshape(len(widths), -1) if widths else []
        picks = dict(zip(widths, grid, strict=True))
        count = np.arange(len(layers) + 1)
        with np.errstate(invalid="ignore"):  # inf is what does not exist
            own = error.at(picks, options)
            added = own.gone - own.stay
            added[np.isnan(added)] = inf
            self.order = np.argsort(added, axis=1, kind="stable")
            self.added = np.take_along_axis(added, self.order, axis=1)
            self.kept = kept = own.base + own.stay.sum(axis=1)  #: the error if all layers stay
            self.errors = kept[:, None] + np.concatenate([np.zeros((len(kept), 1)), self.added.cumsum(axis=1)], axis=1)
            self.errors[np.isnan(self.errors)] = inf
            self.costs = []
            for cost in costs:
                part = cost.at(picks, options)
                each = (part.gone - part.stay)[:, 0] if layers else np.zeros(len(kept))
                self.costs.append((part.base + part.stay.sum(axis=1))[:, None] + each[:, None] * count)
        self.excluded: dict[tuple[int, int], set[frozenset[int]]] = {}
        for one in excluded:
            self.exclude(one)

    def exclude(self, picks: Picks) -> None:
        """Take this cut no longer: the error at its widths and number of layers is that of the next best layers."""
        place, gone = self._place(picks), frozenset(at for at, name in enumerate(self.layers) if picks[name])
        taken = self.excluded.setdefault(place, set())
        taken.add(gone)
        self.errors[place] = next((error for error, other in self._sets(*place) if other not in taken), inf)

    def drop(self, picks: Picks) -> None:
        """Take no cut to these widths and this number of layers any longer."""
        self.errors[self._place(picks)] = inf

    def _place(self, picks: Picks) -> tuple[int, int]:
        row = 0
        for name in self.widths:
            row = row * self.options[name] + picks[name]
        return row, sum(picks[name] for name in self.layers)

    def best(self, limits: Sequence[Limit]) -> Picks | None:
        """Return what errs least within limits; None if nothing is within them."""
        within = self.errors < inf
        for limit, cost in zip(limits, self.costs, strict=True):
            within &= limit.fixed + cost <= limit.most + LAST_DIGITS * abs(limit.most)
        if not within.any():
            return None
        row, away = divmod(int(np.where(within, self.errors, inf).argmin()), len(self.layers) + 1)
        taken = self.excluded.get((row, away), set())
        gone = next(other for _, other in self._sets(row, away) if other not in taken)
        options = np.unravel_index(row, [self.options[name] for name in self.widths]) if self.widths else ()
        picks = {name: int(option) for name, option in zip(self.widths, options, strict=True)}
        return {**picks, **{name: int(at in gone) for at, name in enumerate(self.layers)}}

    def nearest(self, limits: Sequence[Limit]) -> Picks | None:
        """Return what costs the smallest share of the limits, and errs least of such; None if all exceeds the firm ones."""
        share = np.where(self.errors < inf, -inf, inf)
        for limit, cost in zip(limits, self.costs, strict=True):
            spent = limit.fixed + cost
            if limit.firm:
                share[~(spent <= limit.most)] = inf
            else:
                share = np.maximum(share, np.where(np.isnan(spent), inf, spent / _unit(limit)))
        least = float(share.min())
        if abs(least) == inf:
            return None
        return self.best(
            [limit if limit.firm else replace(limit, most=_unit(limit) * least * (1 + TIGHTER)) for limit in limits]
        )

    def _sets(self, row: int, size: int) -> Iterator[tuple[float, frozenset[int]]]:
        """Yield the sets of so many layers that may go at widths, with the errors, those of the least first."""
        added, order, base = self.added[row], self.order[row], float(self.kept[row])
        first = tuple(range(size))
        heap, seen = [(float(added[:size].sum()), first)], {first}
        while heap:
            total, places = heappop(heap)
            yield base + total, frozenset(int(order[place]) for place in places)
            for at, place in enumerate(places):
                if place + 1 == len(added) or place + 1 in places:
                    continue
                moved = (*places[:at], place + 1, *places[at + 1 :])
                if moved not in seen:
                    seen.add(moved)
                    heappush(heap, (float(sum(added[one] for one in moved)), moved))
