"""Solves a choice among widths exactly, as a mixed-integer linear program by HiGHS (scipy.optimize.milp).

Each option is a binary variable, one of each choice's is 1 (multiple choice, as ZipLM and Puzzle put it). A number that depends
on several choices has a variable for each combination, whose sums are the options' own (the usual linearization of products):
with binary options these are binary too. The same problem always gives the same solution: HiGHS draws by a fixed seed, runs on
one thread, and goes on until it has proved that no other solution errs less. Only if its time is over first, the best solution
that it has found is returned, which is not proven and says by how much another may err less.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import inf, prod

from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from compression.planning.search.problem import Limit, NoCombination, OutOfTime, Problem, Solution, Term, out_of_reach_cause
from compression.schema.errors import TargetOutOfReach

TRIES = 4
"""Times that limits are tightened because HiGHS's tolerance let a cost be above one."""
TIGHTER = 2e-6
"""Twice HiGHS's tolerance, in the unit of a limit."""
SECONDS = 300.0
"""Time for a solution if a caller sets none. Only programs that would hold a job for hours reach it."""
GAP = 1e-3
"""Share of its error by which a solution may be worse than the best, if a caller sets a time."""
LEAST_UNIT = 1e-4
"""Share of a cost's largest sum that a limit is counted in at least: HiGHS's numbers must not be too far apart."""
OPTIMAL, LIMIT_REACHED = 0, 1  #: statuses of milp


def solve(problem: Problem, until: float | None = None, gap: float = GAP) -> Solution:
    """Return what errs least within all limits. until: end of the time for it, by time.monotonic, with the gap; None: SECONDS
    from now, and no gap.

    Raises TargetOutOfReach with the nearest point, NoCombination and OutOfTime.
    """
    effort, tight = _Effort.of(until, gap), problem
    for _ in range(TRIES):
        found = _Program(tight).solution(effort)
        if found is None:
            break
        if problem.allows(found.picks):
            return _solution(problem, found)
        limits = (replace(limit, most=limit.most - TIGHTER * unit_of(limit)) for limit in tight.limits)
        tight = replace(tight, limits=tuple(limits))
    raise out_of_reach(problem, _nearest(problem, effort))


@dataclass(frozen=True)
class _Effort:
    """How long HiGHS may take, and how near to the best it must come."""

    until: float  #: by time.monotonic
    gap: float  #: of a solution's error

    @classmethod
    def of(cls, until: float | None, gap: float = GAP) -> "_Effort":
        """Return what a caller allows, as `solve` says."""
        return cls(time.monotonic() + SECONDS, 0.0) if until is None else cls(until, gap)


@dataclass(frozen=True)
class _Taken:
    """The option of each choice, whether HiGHS proved that there is no better one, and how much better one may be."""

    picks: Mapping[str, int]
    proven: bool
    gap: float


def _solution(problem: Problem, found: _Taken) -> Solution:
    picks = found.picks
    return Solution(picks, problem.error_of(picks), problem.costs_of(picks), found.proven, found.gap)


def unit_of(limit: Limit) -> float:
    """Return the unit in which a limit's cost is counted and exceeded: the limit, or if that is near 0 a share of the cost."""
    highest = (max((abs(value) for value in term.values if value < inf), default=0.0) for term in limit.terms)
    return max(abs(limit.most), LEAST_UNIT * (abs(limit.fixed) + sum(highest))) or 1.0


def nearest(problem: Problem, until: float | None = None) -> Solution:
    """Return what exceeds the limits by the smallest share, and of such what errs least. until: as of `solve`.

    Raises NoCombination and OutOfTime.
    """
    return _nearest(problem, _Effort.of(until))


def _nearest(problem: Problem, effort: _Effort) -> Solution:
    found = _Program(problem, loose=True).solution(effort)
    if found is None:
        raise NoCombination("no combination of the options exists")
    costs = problem.costs_of(found.picks)
    excess = [(costs[limit.name] - limit.most) / unit_of(limit) for limit in problem.limits if not limit.firm]
    over = max([0.0, *excess])
    over += TIGHTER * (1 + over)
    limits = (limit if limit.firm else replace(limit, most=limit.most + unit_of(limit) * over) for limit in problem.limits)
    again = _Program(replace(problem, limits=tuple(limits))).solution(effort)
    return _solution(problem, found if again is None else again)


def out_of_reach(problem: Problem, found: Solution) -> TargetOutOfReach:
    """Return the error that says which limits cannot be met. found: the nearest point."""
    asked = {limit.name: limit.most for limit in problem.limits if not limit.firm}
    return TargetOutOfReach(out_of_reach_cause(asked, found.costs), nearest=found)


@dataclass
class _Rows:
    """Rows of a sparse matrix, with the bounds of their products."""

    data: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    lowest: list[float] = field(default_factory=list)
    highest: list[float] = field(default_factory=list)

    def add(self, entries: Mapping[int, float], lowest: float, highest: float) -> None:
        """Add a row. entries: column → number."""
        self.rows += [len(self.lowest)] * len(entries)
        self.columns += entries
        self.data += entries.values()
        self.lowest.append(lowest)
        self.highest.append(highest)


class _Program:
    """The linear program of a problem. loose: the limits may be exceeded by a share, which is what is made least."""

    def __init__(self, problem: Problem, *, loose: bool = False) -> None:
        self.problem, self.loose, self.options = problem, loose, problem.options
        self.starts: dict[tuple[str, ...], int] = {}
        self.count = 0
        terms = [*problem.error, *(term for limit in problem.limits for term in limit.terms)]
        for choices in [(choice.name,) for choice in problem.choices] + [term.choices for term in terms]:
            if choices not in self.starts:
                self.starts[choices] = self.count
                self.count += self._size(choices)
        self.share = self.count  # the column of the share by which limits are exceeded
        self.count += loose
        self.absent = {column for term in terms for column, value in self._entries(term) if value == inf}

    def solution(self, effort: _Effort) -> _Taken | None:
        """Return the option of each choice, or None if there is none. Raises OutOfTime."""
        if (left := effort.until - time.monotonic()) <= 0:
            raise OutOfTime
        rows = self._rows()
        matrix = coo_array((rows.data, (rows.rows, rows.columns)), shape=(len(rows.lowest), self.count)).tocsr()
        highest = [0.0 if column in self.absent else 1.0 for column in range(self.count)]
        if self.loose:
            highest[self.share] = inf
        singles = sum(choice.options for choice in self.problem.choices)
        found = milp(
            self._objective(),
            integrality=[1] * singles + [0] * (self.count - singles),
            bounds=Bounds([0.0] * self.count, highest),
            constraints=LinearConstraint(matrix, rows.lowest, rows.highest),
            options={"mip_rel_gap": effort.gap, "time_limit": left},
        )
        if found.x is None:
            if found.status == LIMIT_REACHED:
                raise OutOfTime
            return None
        values: Sequence[float] = found.x.tolist()
        picks = {}
        for choice in self.problem.choices:
            start = self.starts[choice.name,]
            picks[choice.name] = max(range(choice.options), key=lambda option, start=start: values[start + option])  # type: ignore[misc]
        proven = found.status == OPTIMAL
        return _Taken(picks, proven, 0.0 if proven else float(found.mip_gap))

    def _objective(self) -> list[float]:
        found = [0.0] * self.count
        if self.loose:
            found[self.share] = 1.0
            return found
        for term in self.problem.error:
            for column, value in self._entries(term):
                found[column] += value if value < inf else 0.0
        return found

    def _rows(self) -> _Rows:
        rows = _Rows()
        for choices, start in self.starts.items():
            if len(choices) == 1:
                rows.add({start + option: 1.0 for option in range(self.options[choices[0]])}, 1.0, 1.0)
                continue
            combinations = list(product(*(range(self.options[name]) for name in choices)))
            for place, name in enumerate(choices):
                for option in range(self.options[name]):
                    own = {start + at: 1.0 for at, picked in enumerate(combinations) if picked[place] == option}
                    rows.add({**own, self.starts[name,] + option: -1.0}, 0.0, 0.0)
        for limit in self.problem.limits:
            self._add_limit(rows, limit)
        return rows

    def _add_limit(self, rows: _Rows, limit: Limit) -> None:
        unit, entries = unit_of(limit), dict[int, float]()
        for term in limit.terms:
            for column, value in self._entries(term):
                if value < inf:
                    entries[column] = entries.get(column, 0.0) + value / unit
        if self.loose and not limit.firm:
            entries[self.share] = -1.0
        rows.add(entries, -inf, (limit.most - limit.fixed) / unit)

    def _size(self, choices: tuple[str, ...]) -> int:
        return prod(self.options[name] for name in choices)

    def _entries(self, term: Term) -> Iterator[tuple[int, float]]:
        if len(term.values) != self._size(term.choices):
            raise ValueError(f"{term.choices} have {self._size(term.choices)} combinations, not {len(term.values)}")
        start = self.starts[term.choices]
        return ((start + place, value) for place, value in enumerate(term.values))
