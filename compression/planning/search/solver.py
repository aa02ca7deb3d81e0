"""Solves a choice among widths exactly, as a mixed-integer linear program by HiGHS (scipy.optimize.milp).

Each option is a binary variable, one of each choice's is 1 (multiple choice, as ZipLM and Puzzle put it). A number that depends
on several choices has a variable for each combination, whose sums are the options' own (the usual linearization of products):
with binary options these are binary too. The same problem always gives the same solution: HiGHS draws by a fixed seed and runs
on one thread, and no limit of time ends it, unless a caller sets one: then it is the best solution that was found.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import inf, prod

from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from compression.planning.search.problem import Limit, OutOfTime, Problem, Solution, Term
from compression.schema.errors import TargetOutOfReach

TRIES = 4
"""Times that limits are tightened because HiGHS's tolerance let a cost be above one."""
TIGHTER = 2e-6
"""Twice HiGHS's tolerance, in the unit of a limit."""
GAP = 1e-3
"""Share of its error by which a solution may be worse than the best, if time is limited."""
OPTIMAL, LIMIT_REACHED = 0, 1  #: statuses of milp


def solve(problem: Problem, until: float | None = None) -> Solution:
    """Return what errs least within all limits. until: end of the time for it, by time.monotonic; None: none.

    Raises TargetOutOfReach with the nearest point, ValueError if no combination of options exists, and OutOfTime.
    """
    tight = problem
    for _ in range(TRIES):
        found = _Program(tight).solution(until)
        if found is None:
            break
        if problem.allows(found.picks):
            return _solution(problem, found)
        limits = (replace(limit, most=limit.most - TIGHTER * max(abs(limit.most), 1.0)) for limit in tight.limits)
        tight = replace(tight, limits=tuple(limits))
    raise _out_of_reach(problem, until)


@dataclass(frozen=True)
class _Taken:
    """The option of each choice, and whether HiGHS proved that there is no better one."""

    picks: Mapping[str, int]
    proven: bool


def _solution(problem: Problem, found: _Taken) -> Solution:
    return Solution(found.picks, problem.error_of(found.picks), problem.costs_of(found.picks), found.proven)


def nearest(problem: Problem, until: float | None = None) -> Solution:
    """Return what exceeds the limits by the smallest share, and of such what errs least. until: as of `solve`.

    Raises ValueError if no combination of options exists, and OutOfTime.
    """
    found = _Program(problem, loose=True).solution(until)
    if found is None:
        raise ValueError("no combination of the options exists")
    costs = problem.costs_of(found.picks)
    over = max(costs[limit.name] / max(limit.most, 1e-9) for limit in problem.limits if not limit.firm)
    limits = tuple(
        limit if limit.firm else replace(limit, most=max(limit.most, 1e-9) * over * (1 + TIGHTER)) for limit in problem.limits
    )
    again = _Program(replace(problem, limits=limits)).solution(until)
    return _solution(problem, found if again is None else again)


def _out_of_reach(problem: Problem, until: float | None) -> TargetOutOfReach:
    found = nearest(problem, until)
    told = [limit for limit in problem.limits if not limit.firm]
    missed = [limit for limit in told if found.costs[limit.name] > limit.most]
    asked = ", ".join(f"at most {_shown(limit.most)} {limit.name}" for limit in missed or told)
    reached = ", ".join(f"{_shown(found.costs[limit.name])} {limit.name}" for limit in told)
    return TargetOutOfReach(f"{asked} cannot be reached; the nearest point has {reached}", nearest=found)


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


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

    def solution(self, until: float | None = None) -> _Taken | None:
        """Return the option of each choice, or None if there is none. until: as of `solve`. Raises OutOfTime."""
        limits = {"mip_rel_gap": 0.0}
        if until is not None:
            if (left := until - time.monotonic()) <= 0:
                raise OutOfTime
            limits = {"mip_rel_gap": GAP, "time_limit": left}
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
            options=limits,
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
        return _Taken(picks, found.status == OPTIMAL)

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
        unit, entries = max(abs(limit.most), 1e-9), dict[int, float]()
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
