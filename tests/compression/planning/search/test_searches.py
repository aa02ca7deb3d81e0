"""Every search among widths, on small made problems: within the limits, the same by seed, and never better than the solver."""

import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from compression.planning.search import trials as trials_module
from compression.planning.search.comparison import ComparedSearch, search_of
from compression.planning.search.problem import Choice, Limit, OutOfTime, Picks, Problem, Term
from compression.planning.search.solver import solve
from compression.planning.search.trials import SearchResult, Trials, run_search
from compression.planning.search.within import solve_within
from compression.pruning.width_environment import WidthEnvironment
from compression.schema.errors import MissingResource, TargetOutOfReach
from compression.schema.recipe.prune import Prune, SearchBudget
from compression.schema.report.search import SearchOutcome, winner
from compression.schema.searches import SEARCHES, installed_searches
from compression.system.interrupts import Pause
from tests.compression.planning.search.made_problems import chain
from tests.compression.planning.search.test_within import COST, MadeSpace

BUDGET = SearchBudget(evaluations=48, seconds=120)


def run(name: str, problem: Problem, seed: int = 0, budget: SearchBudget = BUDGET) -> SearchResult:
    return run_search(search_of(name), problem, budget, seed)


def test_recipes_name_the_searches_that_there_are() -> None:
    named = next(one for one in get_args(Prune.model_fields["search"].annotation) if one is not type(None))
    assert {*get_args(named)} == {*SEARCHES} == {*installed_searches()}


def test_a_budget_that_nothing_reads_is_refused() -> None:
    for search in (None, "solver"):
        with pytest.raises(ValueError, match="search_budget is of searches that end with it"):
            Prune.model_validate({"search": search, "search_budget": {"evaluations": 5}})
    assert Prune.model_validate({"search": "tpe", "search_budget": {"evaluations": 5}}).search_budget.evaluations == 5


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_the_limits_allow_and_never_beats_the_solver(name: str) -> None:
    for seed in range(2):
        problem = chain(seed, share=0.4)
        found, best = run(name, problem, seed), solve(problem)
        assert found.best is not None
        assert problem.allows(found.best.picks)
        assert found.best.error == problem.error_of(found.best.picks) >= best.error - 1e-9
        assert found.evaluations == (1 if name == "solver" else BUDGET.evaluations)
        assert found.best.error == min(trial.error for trial in found.tried if trial.allowed)
        assert all(trial.allowed == problem.allows(trial.picks) for trial in found.tried)


@pytest.mark.parametrize("name", SEARCHES)
def test_the_same_seed_tries_the_same_and_another_does_not(name: str) -> None:
    problem = chain(3)
    tried = [[(one.picks, one.error) for one in run(name, problem, seed).tried] for seed in (5, 5, 6)]
    assert tried[0] == tried[1]
    assert (tried[0] == tried[2]) == (name == "solver")


@pytest.mark.parametrize("name", ["solver", "rl"])
def test_what_nothing_is_within_is_out_of_reach(name: str) -> None:
    with pytest.raises(TargetOutOfReach):
        run(name, chain(0, share=0.01))


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_samplers_that_find_nothing_say_so(name: str) -> None:
    found = run(name, chain(0, share=0.01), budget=SearchBudget(evaluations=12))
    assert found.best is None
    assert not any(trial.allowed for trial in found.tried)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "rl"])
def test_more_evaluations_find_better_cuts(name: str) -> None:
    problem = chain(7, groups=8, share=0.4)
    result = run(name, problem, budget=SearchBudget(evaluations=160, seconds=300))
    errors = [trial.error for trial in result.tried if trial.allowed]
    assert min(errors) < min(errors[: len(errors) // 8])


def test_time_ends_a_search_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(trials_module, "perf_counter", lambda: float(next(clock)))
    found = run("tpe", chain(0), budget=SearchBudget(evaluations=1000, seconds=20))
    assert 0 < found.evaluations < 20


def tighter(problem: Problem, share: float) -> Problem:
    limits = tuple(limit if limit.firm else replace(limit, most=share * limit.most) for limit in problem.limits)
    return replace(problem, limits=limits)


@pytest.mark.parametrize("name", ["tpe", "rl"])
def test_limits_that_become_tighter_share_one_budget(name: str) -> None:
    problem, search = chain(1), ComparedSearch(name, SearchBudget(evaluations=24, seconds=120), 0)
    for limited in (problem, tighter(problem, 0.9), tighter(problem, 0.8)):
        found = search(limited)
        assert limited.allows(found.picks)
        assert search.comparison is not None
        assert (search.comparison.chosen.evaluations, search.comparison.solver.evaluations <= 3) == (24, True)
        own = [one for one in search.results[name].tried if limited.allows(one.picks)]
        best = min((one.error for one in own), default=None)
        assert search.comparison.chosen.error == best
        assert (search.taken, found.error) == ((name, best) if own else ("solver", pytest.approx(solve(limited).error)))


@pytest.mark.parametrize("budget", [SearchBudget(evaluations=1, seconds=60), SearchBudget(evaluations=9, seconds=1e-9)])
def test_the_solver_is_compared_on_the_problem_whose_cut_is_returned(budget: SearchBudget) -> None:
    """Sums let the second through, which is really above the target; the last is found in a later round."""
    search = ComparedSearch("tpe", budget, 0)
    found = solve_within(MadeSpace((20, 9, 8), (20, 12, 8)), [COST], search)
    taken, comparison = search.of(found.picks)
    assert comparison is not None
    assert (found.picks, taken, comparison.chosen.error) == ({"a": 2}, "solver", None)
    assert (comparison.solver.error, comparison.solver.evaluations, comparison.solver.proven) == (2.0, 2, True)
    assert comparison.won == ("tie" if comparison.solver.late else "solver")


def test_cuts_that_earlier_rounds_looked_at_are_within_the_limits_and_no_longer_taken() -> None:
    """By sums all are within the target, really the last alone: in the second round it is what is left."""
    search = ComparedSearch("tpe", SearchBudget(evaluations=1, seconds=60), 0)
    solve_within(MadeSpace((9, 9, 9), (20, 20, 8)), [COST], search)
    assert search.comparison is not None
    chosen = search.comparison.chosen
    assert (chosen.evaluations, chosen.allowed, chosen.error) == (1, 1, None)
    assert "tpe nothing within the limits but cuts that really cost more in 1 evaluations" in chosen.told
    assert "nothing within the limits in" in chosen.model_copy(update={"allowed": 0}).told


def test_a_comparison_outlives_a_round_that_finds_nothing() -> None:
    """Of the two, the first is above the target and the second too: the last round is out of reach."""
    search = ComparedSearch("tpe", SearchBudget(evaluations=4, seconds=60), 0)
    with pytest.raises(TargetOutOfReach):
        solve_within(MadeSpace((9, 8), (20, 19)), [COST], search)
    assert search.comparison is not None


def test_a_solution_that_is_late_is_taken_and_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, now = chain(1), [0.0]
    monkeypatch.setattr(trials_module, "perf_counter", lambda: now[0])

    def slow(problem: Problem, trials: Trials, seed: int) -> None:
        now[0] += 9.0
        trials.predict(solve(problem).picks)

    def none(problem: Problem, trials: Trials, seed: int) -> None:
        trials.predict(dict.fromkeys(problem.options, 0))

    monkeypatch.setattr("compression.planning.search.solver_search.search", slow)
    monkeypatch.setattr("compression.planning.search.samplers.search_tpe", none)
    search = ComparedSearch("tpe", SearchBudget(evaluations=9, seconds=5.0), 0)
    assert search(problem).error == pytest.approx(solve(problem).error)
    assert search.taken == "solver"
    assert search.comparison is not None
    assert search.comparison.solver.late
    assert search.comparison.won == "tie"  # of nothing with nothing


@pytest.mark.parametrize("raised", [TargetOutOfReach("nothing"), OutOfTime()])
def test_a_bound_or_a_time_that_an_agent_misses_leaves_the_solvers_cut(
    monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def gives_up(problem: Problem, trials: Trials, seed: int) -> None:
        raise raised

    monkeypatch.setattr("compression.pruning.width_agent.search", gives_up)
    problem, search = chain(1), ComparedSearch("rl", BUDGET, 0)
    assert search(problem).error == pytest.approx(solve(problem).error)
    assert search.comparison is not None
    assert (search.taken, search.comparison.chosen.error, search.comparison.won) == ("solver", None, "solver")


@pytest.mark.parametrize("name", ["tpe", "nsga2", "rl"])
def test_a_pause_ends_a_search_at_once(name: str) -> None:
    beats = []

    def beat() -> None:
        beats.append(1)
        if len(beats) > 20:
            raise Pause

    search = ComparedSearch(name, BUDGET, 0, beat=beat)
    with pytest.raises(Pause):
        search(chain(1))
    assert (len(beats), name in search.results) == (21, False)


def test_an_agent_solves_no_further_programs_once_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(trials_module, "perf_counter", clock)
    found = run("rl", chain(0, groups=12), budget=SearchBudget(evaluations=1000, seconds=6.0))
    assert found.evaluations == 0  # its first episode has 14 steps


def learnable() -> Problem:
    """Return a choice of 12 groups of which half hardly err: of cuts that keep to the limit few drawn ones are good."""
    choices = tuple(Choice(f"channels.{number}", 8) for number in range(12))
    error = [Term((one.name,), tuple((0.01, 3.0)[at % 2] * option for option in range(8))) for at, one in enumerate(choices)]
    cost = tuple(Term((one.name,), tuple(8.0 - option for option in range(8))) for one in choices)
    return Problem(choices, tuple(error), (Limit("parameters", 54.0, cost),))


def test_an_agent_learns_what_drawn_actions_do_not_find() -> None:
    """The least error is 0.42; cuts that the environment makes of drawn actions stay far above it."""
    problem = learnable()
    learned = [one.error for one in run("rl", problem, budget=SearchBudget(evaluations=480, seconds=600)).tried]
    trials = Trials(problem, SearchBudget(evaluations=480, seconds=600))
    world, draw = WidthEnvironment(problem, trials.predict), random.Random(0)
    for _ in range(480):
        world.reset()
        done = False
        while not done:
            done = world.step(np.array([draw.uniform(-1, 1)], np.float32))[2]
    drawn = [one.error for one in trials.tried]
    assert solve(problem).error == pytest.approx(0.42)
    assert statistics.fmean(learned[-48:]) < 0.7 * statistics.fmean(learned[:48])
    assert min(learned) < 0.7 * min(drawn)


def corrected(problem: Problem) -> Callable[[Picks], float]:
    """Return a prediction that is no sum of the tables: one group matters ten times as much as they say."""
    return lambda picks: problem.error_of(picks) + 9 * problem.error[1].at(picks, problem.options)


def test_the_solver_goes_on_to_reweighed_errors_if_predictions_are_corrected() -> None:
    problem = chain(2, share=0.4)
    evaluate = corrected(problem)
    result = run_search(search_of("solver"), problem, BUDGET, 0, evaluate)
    assert result.best is not None
    assert result.evaluations > 1
    assert result.best.error == min(map(evaluate, [trial.picks for trial in result.tried])) < result.tried[0].error
    assert all(trial.allowed for trial in result.tried)
    assert len({tuple(trial.picks.items()) for trial in result.tried}) == result.evaluations


@pytest.mark.parametrize("name", SEARCHES)
def test_a_compared_search_returns_its_own_best_and_tells_the_solver_beside_it(name: str) -> None:
    problem, search = chain(1), ComparedSearch(name, BUDGET, 0)
    found = search(problem)
    assert problem.allows(found.picks)
    if name == "solver":
        assert search.comparison is None
        assert (found.proven, found.gap) == (True, 0.0)
        return
    compared = search.comparison
    assert compared is not None
    assert (compared.chosen.search, compared.solver.search) == (name, "solver")
    assert compared.chosen.error == found.error
    assert compared.solver.error == pytest.approx(solve(problem).error)
    assert (compared.chosen.evaluations, compared.solver.evaluations) == (BUDGET.evaluations, 1)
    assert compared.won == ("tie" if abs(found.error - solve(problem).error) <= 1e-9 else "solver")
    assert f"{name} a predicted error of" in compared.told
    assert compared.told.endswith(("solver won.", "a tie."))
    assert (compared.chosen.proven, compared.solver.proven) == (None, True)
    assert found.proven == (compared.won == "tie")
    assert found.error * (1 - found.gap) == pytest.approx(solve(problem).error)


def test_a_solver_whose_time_was_over_says_so_in_the_report() -> None:
    problem = chain(1)
    hurried = replace(solve(problem), proven=False, gap=0.2)
    search = ComparedSearch("nsga2", BUDGET, 0, solve=lambda _: hurried)
    found = search(problem)
    assert search.comparison is not None
    assert search.comparison.solver.proven is False
    assert "its time was over before it had proved that none is lower" in search.comparison.told
    assert not found.proven
    assert found.error * (1 - found.gap) == pytest.approx(0.8 * hurried.error)


def test_the_lower_error_wins() -> None:
    def one(name: str, error: float | None) -> SearchOutcome:
        return SearchOutcome(search=name, error=error, evaluations=1, allowed=1, seconds=0.1)

    assert winner(one("rl", 0.5), one("solver", 0.6)) == "rl"
    assert winner(one("rl", 0.7), one("solver", 0.6)) == "solver"
    assert winner(one("rl", 0.6 + 5e-10), one("solver", 0.6)) == "tie"
    assert winner(one("rl", None), one("solver", 0.6)) == "solver"
    assert winner(one("rl", 0.0), one("solver", None)) == "rl"
    late = one("solver", 0.1).model_copy(update={"late": True})
    assert winner(one("rl", 0.7), late) == "rl"  # not within the same wall clock
    assert winner(one("rl", None), late) == "tie"
    assert "after its time" in late.told


@pytest.mark.parametrize(("name", "package"), [("tpe", "optuna"), ("nsga2", "optuna"), ("rl", "stable_baselines3")])
def test_a_missing_package_is_named_with_its_remedy(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.schema.searches.find_spec", lambda one: None if one == package else object())
    assert name not in installed_searches()
    with pytest.raises(MissingResource, match=f"{name} needs {package}") as caught:
        search_of(name)
    assert caught.value.param == "recipe.prune.search"
    assert ".[search]" in caught.value.remedy_text


def test_no_budget_is_exceeded() -> None:
    problem = chain(0)
    trials = Trials(problem, SearchBudget(evaluations=2))
    picks = dict.fromkeys(problem.options, 0)
    assert [trials.predict(picks).allowed, trials.predict(picks).allowed] == [False, False]
    with pytest.raises(trials_module.BudgetSpent):
        trials.predict(picks)


def test_samplers_load_no_torch() -> None:
    import subprocess

    code = "import sys; import compression.planning.search.samplers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
