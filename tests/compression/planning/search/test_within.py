"""What a solver returns is held to its real costs: sums that over- or undercount neither hide a cut nor let one through."""

from collections.abc import Iterator
from typing import Any

import pytest

from compression.planning.search.problem import Choice, Limit, OutOfTime, Picks, Problem, Solution, Term
from compression.planning.search.solver import solve
from compression.planning.search.space import Cost
from compression.planning.search.within import ROUNDS, solve_within
from compression.schema.errors import TargetOutOfReach
from compression.schema.report.measurements import Shape

MOST = 10.0
COST = Cost("parameters", MOST, lambda _: 0.0, lambda *_: 0.0, key="target_params")


class MadeSpace:
    """One choice, whose options err more and more, and whose costs in sums are not the real ones."""

    structure: tuple[Limit, ...] = ()

    def __init__(self, sums: tuple[float, ...], real: tuple[float, ...]) -> None:
        self.sums, self.real = sums, real
        self.choices = (Choice("a", len(sums)),)
        self.error = (Term(("a",), tuple(map(float, range(len(sums))))),)

    def limit(self, cost: Cost) -> Limit:
        return Limit(cost.name, cost.most, (Term(("a",), self.sums),))

    def cost_of(self, cost: Cost, picks: Picks) -> float:
        return self.real[picks["a"]]

    def shape(self, picks: Picks) -> Shape:
        return Shape(layers=1, hidden=8, heads=1, ffn=100 - picks["a"], vocabulary=9)

    def layers(self, picks: Picks) -> tuple[int, ...]:
        return (0,)

    def deepest(self) -> Iterator[Picks]:
        yield {"a": len(self.sums) - 1}


@pytest.mark.parametrize(
    ("sums", "real", "taken", "proven"),
    [
        ((20, 9, 8), (20, 9, 8), 1, True),
        # Sums overcount: by them nothing is within the target, and of what is the second errs least.
        ((20, 12, 11), (18, 9, 8), 1, False),
        ((20, 30, 11), (18, 20, 8), 2, False),
        # The first is above the target after all. Without it, what a limit half as high would hide is the best.
        ((10, 9, 8), (20, 9.5, 12), 1, True),
        # A limit that is tightened by half leaves the last one alone.
        ((10, 9, 4), (20, 20, 8), 2, False),
    ],
)
def test_what_is_really_within_the_targets_is_found(sums: Any, real: Any, taken: int, proven: bool) -> None:
    found = solve_within(MadeSpace(sums, real), [COST])
    assert found.picks == {"a": taken}
    assert found.costs == {"parameters": real[taken]}
    assert found.proven is proven


@pytest.mark.parametrize(
    ("sums", "real", "verdict"),
    [
        ((20, 12, 11), (20, 12, 11), "cannot be reached"),
        ((9, 8, 7), (13, 12, 11), "cannot be reached"),
        ((20, 16, 15), (18, 13, 11), "is met by none of the 2 cuts that were looked at"),
    ],
)
def test_only_what_no_cut_meets_is_out_of_reach_and_the_target_is_named_as_asked(sums: Any, real: Any, verdict: str) -> None:
    with pytest.raises(TargetOutOfReach) as caught:
        solve_within(MadeSpace(sums, real), [COST])
    nearest = min(range(3), key=lambda option: real[option])
    assert caught.value.nearest.picks == {"a": nearest}  # type: ignore[attr-defined]
    shape = f"1 layers of 8/1/{100 - nearest}"
    assert caught.value.cause == f"at most 10 parameters {verdict}; the nearest point has {real[nearest]} parameters ({shape})"
    assert caught.value.param == "recipe.prune.target_params"


def test_a_search_that_never_ends_in_the_targets_is_asked_no_more_than_so_often() -> None:
    asked = []

    def careless(problem: Problem) -> Solution:
        asked.append(problem)
        return Solution({"a": 0}, 0.0, {"parameters": 1.0})

    with pytest.raises(TargetOutOfReach, match=f"none of the {ROUNDS} cuts"):
        solve_within(MadeSpace((1, 1), (20, 5)), [COST], careless)
    assert len(asked) == ROUNDS


def test_what_the_solver_had_no_time_to_prove_is_not_proven() -> None:
    def hurried(problem: Problem) -> Solution:
        return Solution({"a": 1}, 1.0, problem.costs_of({"a": 1}), proven=False, gap=0.25)

    found = solve_within(MadeSpace((20, 9, 8), (20, 9, 8)), [COST], hurried)
    assert (found.proven, found.gap) == (False, 0.25)


@pytest.mark.parametrize(("real", "reached"), [((20, 12, 8), False), ((20, 9, 8), True)])
def test_a_later_round_that_is_out_of_time_leaves_what_was_found_before(real: Any, reached: bool) -> None:
    """By sums all are above the target: the first round ends with the nearest, at its real cost within the target or not."""
    asked = []

    def hurried(problem: Problem) -> Solution:
        asked.append(problem)
        if len(asked) > 1:
            raise OutOfTime
        picks = {"a": 1}
        raise TargetOutOfReach("by sums", nearest=Solution(picks, 1.0, {"parameters": 13.0}))

    if reached:
        assert solve_within(MadeSpace((20, 13, 14), real), [COST], hurried).picks == {"a": 1}
    else:
        with pytest.raises(TargetOutOfReach, match="none of the 1 cuts") as caught:
            solve_within(MadeSpace((20, 13, 14), real), [COST], hurried)
        assert not caught.value.proven
    assert len(asked) == 2


def test_without_anything_found_before_the_time_is_over() -> None:
    def late(problem: Problem) -> Solution:
        raise OutOfTime

    with pytest.raises(OutOfTime):
        solve_within(MadeSpace((20, 9), (20, 9)), [COST], late)


def test_the_last_digits_of_a_sum_are_no_difference() -> None:
    asked = []

    def counted(problem: Problem) -> Solution:
        asked.append(problem)
        return solve(problem)

    above = 12 * (1 + 1e-15)
    with pytest.raises(TargetOutOfReach, match="cannot be reached") as caught:
        solve_within(MadeSpace((20, above, above), (20, 12, 12)), [COST], counted)
    assert (len(asked), caught.value.proven) == (1, True)
    exactly = MOST * (1 + 2e-16)
    found = solve_within(MadeSpace((20, exactly, 8), (20, exactly, 8)), [COST])
    assert (found.picks, found.proven) == ({"a": 1}, True)
