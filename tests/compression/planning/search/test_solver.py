"""The solver against brute force on small made problems: never worse, never above a limit, always the same."""

import random
import time
from dataclasses import replace
from itertools import product
from math import inf
from typing import Any

import pytest

from compression.planning.search import solver
from compression.planning.search.problem import Choice, Limit, OutOfTime, Picks, Problem, Term
from compression.planning.search.solver import nearest, solve
from compression.schema.errors import TargetOutOfReach


def made(seed: int, *, reachable: bool = True) -> Problem:
    """Four groups of up to five widths, one of which costs with each of the others, and a layer that may go. reachable: each
    limit by itself.
    """
    draw = random.Random(seed)
    choices = [Choice("stream", 3), Choice("a", 5), Choice("b", 4), Choice("c", 4), Choice("layer", 2)]
    options = {choice.name: choice.options for choice in choices}

    def drawn(names: tuple[str, ...], most: float) -> Term:
        count = len(list(product(*(range(options[name]) for name in names))))
        return Term(names, tuple(draw.uniform(0, most) for _ in range(count)))

    error = [drawn((choice.name,), 1.0) for choice in choices] + [drawn(("b", "layer"), 0.5)]
    absent = Term(("stream", "a"), tuple(inf if place == draw.randrange(15) else 0.0 for place in range(15)))
    limits = []
    for name in ("parameters", "milliseconds"):
        together = [("stream", "a"), ("stream", "b"), ("stream", "c", "layer")]
        terms = (*(drawn(names, 1e6) for names in together), drawn(("c",), 1e5))
        whole = Problem(tuple(choices), (), (Limit(name, 0.0, terms, 1e5),))
        costs = [whole.costs_of(picks)[name] for picks in every(whole)]
        most = min(costs) + 0.6 * (sum(costs) / len(costs) - min(costs)) if reachable else 0.5 * min(costs)
        limits.append(Limit(name, most, terms, 1e5))
    return Problem(tuple(choices), (*error, absent), tuple(limits))


def every(problem: Problem) -> list[Picks]:
    names = [choice.name for choice in problem.choices]
    return [dict(zip(names, each, strict=True)) for each in product(*(range(one.options) for one in problem.choices))]


@pytest.mark.parametrize("seed", range(12))
def test_no_combination_within_the_limits_errs_less(seed: int) -> None:
    problem = made(seed)
    possible = [picks for picks in every(problem) if problem.allows(picks)]
    if not possible:
        with pytest.raises(TargetOutOfReach):
            solve(problem)
        return
    found = solve(problem)
    assert problem.allows(found.picks)
    assert found.error == pytest.approx(min(map(problem.error_of, possible)), rel=1e-6)
    assert found.costs == problem.costs_of(found.picks)
    assert solve(problem) == found


@pytest.mark.parametrize("seed", range(4))
def test_out_of_reach_names_the_nearest_point(seed: int) -> None:
    problem = made(seed, reachable=False)

    def over(picks: Picks) -> float:
        return max(problem.costs_of(picks)[limit.name] / limit.most for limit in problem.limits)

    exist = [picks for picks in every(problem) if problem.error_of(picks) < inf]
    with pytest.raises(TargetOutOfReach) as caught:
        solve(problem)
    found = caught.value.nearest
    assert over(found.picks) == pytest.approx(min(map(over, exist)), rel=1e-4)
    assert "parameters" in caught.value.cause
    assert found == nearest(problem)


def test_a_limit_that_is_just_met_is_met() -> None:
    terms = tuple(Term((name,), (1e8, 7e7 + 1, 3e7)) for name in "ab")
    error = tuple(Term((name,), (0.0, 0.1, 0.9)) for name in "ab")
    problem = Problem((Choice("a", 3), Choice("b", 3)), error, (Limit("parameters", 1.4e8 + 2, terms),))
    assert solve(problem).picks == {"a": 1, "b": 1}


def test_a_firm_limit_holds_even_where_a_target_is_out_of_reach() -> None:
    choices = (Choice("first", 2), Choice("second", 2))
    gone = tuple(Term((name,), (0.0, 1.0)) for name in ("first", "second"))
    costs = tuple(Term((name,), (10.0, 0.0)) for name in ("first", "second"))
    error = (Term(("first",), (0.0, 1.0)), Term(("second",), (0.0, 2.0)))
    problem = Problem(choices, error, (Limit("removed layers", 1, gone, firm=True), Limit("parameters", 5.0, costs)))
    with pytest.raises(
        TargetOutOfReach, match="at most 5 parameters cannot be reached; the nearest point has 10 parameters"
    ) as caught:
        solve(problem)
    assert caught.value.nearest.picks == {"first": 1, "second": 0}


def test_a_limit_of_nothing_has_a_nearest_point() -> None:
    costs = Term(("a",), (1e8, 7e7, 3e7))
    problem = Problem((Choice("a", 3),), (Term(("a",), (0.0, 0.1, 0.9)),), (Limit("parameters", 0.0, (costs,)),))
    with pytest.raises(TargetOutOfReach, match=r"at most 0 parameters cannot be reached; .* 30,000,000") as caught:
        solve(problem)
    assert caught.value.nearest == nearest(problem)
    free = replace(problem, limits=(Limit("parameters", 0.0, (Term(("a",), (1e8, 0.0, 0.0)),)),))
    assert solve(free).picks == {"a": 1}


def test_a_solution_that_time_ended_says_that_it_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, whole = made(0), solver.milp

    def stopped(*given: Any, **how: Any) -> Any:
        assert how["options"] == {"mip_rel_gap": 0.0, "time_limit": pytest.approx(solver.SECONDS, abs=5)}
        found = whole(*given, **how)
        found.status, found.mip_gap = solver.LIMIT_REACHED, 0.25
        return found

    assert (solve(problem).proven, solve(problem).gap) == (True, 0.0)
    monkeypatch.setattr(solver, "milp", stopped)
    found = solve(problem)
    assert (found.proven, found.gap) == (False, 0.25)
    with pytest.raises(OutOfTime):
        solve(problem, until=time.monotonic())


def test_options_are_counted_once() -> None:
    problem = made(0)
    assert problem.options is problem.options
    assert problem.options == {"stream": 3, "a": 5, "b": 4, "c": 4, "layer": 2}


def test_a_term_must_have_a_number_for_each_combination() -> None:
    with pytest.raises(ValueError, match="have 2 combinations, not 3"):
        solve(Problem((Choice("a", 2),), (Term(("a",), (0.0, 1.0, 2.0)),), ()))
