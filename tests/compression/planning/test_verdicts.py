"""Verdicts: what is shipped and why, what is called worse, and what is behind."""

import pytest

from compression.planning.baseline import baseline_remedies
from compression.planning.verdicts import by_status, choose, cost, judged, shortfall
from compression.schema.recipe.recipe import Targets
from compression.schema.report.measurements import NotMeasured, Row, StageVerdict
from compression.schema.report.report import Report, verdicts
from tests.client import figures
from tests.client.figures import changed, converged, row
from tests.support.verdict_rows import BASELINE, QUANTIZED, RECIPE, TARGETS, distilled, pruned, verdict


def test_what_meets_all_targets_is_shipped_though_it_is_not_the_last() -> None:
    chosen, why = choose([BASELINE, QUANTIZED, pruned(0.797), distilled(0.78)], TARGETS)
    assert chosen.stage == "pruned"
    assert why == "pruned is shipped: it meets all targets at 7.0% of the baseline's bytes × latency, 99.6% of the score kept."


def test_of_those_that_meet_all_the_cheapest_is_shipped() -> None:
    easy = Targets(parameter_reduction=0, size_reduction=0.5, speed_up=1.5, retention=0.9)
    chosen, why = choose([BASELINE, QUANTIZED, pruned(0.75), distilled(0.6)], easy)
    assert chosen.stage == "pruned"
    assert "quantized also meets them all, at 12.5%" in why


def test_of_those_that_cost_the_same_the_better_is_shipped_however_the_clock_ran() -> None:
    easy = Targets(retention=0.9)
    for ms in (4.0, 6.1, 6.4, 6.7, 9.0):  # the same graph, timed again
        assert choose([BASELINE, QUANTIZED, pruned(0.75), distilled(0.79, ms=ms)], easy)[0].stage == "distilled"
        assert choose([BASELINE, QUANTIZED, pruned(0.79), distilled(0.75, ms=ms)], easy)[0].stage == "pruned"
    chosen, why = choose([BASELINE, QUANTIZED, pruned(0.78), distilled(0.78, ms=6.7)], easy)
    assert chosen.stage == "distilled"
    assert "pruned also meets them all, at 7.0% (the same graph, so no less)." in why


def test_where_none_meets_all_the_most_targets_and_then_what_is_lacking_decide() -> None:
    rows = [BASELINE, QUANTIZED, pruned(), distilled(0.784)]
    assert [len(by_status(each, TARGETS, "met")) for each in rows] == [1, 3, 3, 3]
    chosen, why = choose(rows, TARGETS)
    assert chosen.stage == "quantized"
    assert why.startswith(
        "No stage meets all targets. quantized is shipped: it meets 3 of 4 (size reduction, speed up, retention)"
    )
    assert "parameter reduction 0.000 (target 0.305)" in why
    near = [*rows[:-1], distilled(0.791)]
    assert [len(by_status(each, TARGETS, "met")) for each in near] == [1, 3, 3, 3]
    assert choose(near, TARGETS)[0].stage == "distilled"
    assert [shortfall(it, TARGETS) for it in near[1:]] == pytest.approx([1, (0.992 - 0.75) / 0.008, (0.992 - 0.98875) / 0.008])
    assert shortfall(distilled(), TARGETS) == 0
    assert choose(rows, Targets(speed_up=2.2))[0].stage == "distilled"


def test_the_baseline_is_shipped_only_where_it_meets_all_or_is_alone() -> None:
    assert choose([BASELINE], TARGETS)[0].stage == "baseline"
    nothing_met = Targets(parameter_reduction=0.9, size_reduction=0.9, speed_up=100)
    assert choose([BASELINE, row("quantized", 20_000_000, 80_000_000, 16.0, 0.5)], nothing_met)[0].stage == "quantized"
    only_score = Targets(parameter_reduction=0, size_reduction=0, speed_up=1)
    assert choose([BASELINE, row("quantized", 20_000_000, 20_000_000, 8.0, 0.5)], only_score)[0].stage == "baseline"


def test_what_was_not_measured_meets_no_target() -> None:
    last = distilled(0.8, latency=NotMeasured(not_measured="busy"))
    last = last.model_copy(update={"ratios": last.ratios.model_copy(update={"speed_up": None})})
    assert cost(last) == float("inf")
    assert "speed up not measured" in choose([BASELINE, last], TARGETS)[1]
    found = verdict(RECIPE, BASELINE, QUANTIZED, pruned(), last)
    assert (found.missed, found.unproven) == ((), ("speed_up",))


def test_a_stage_that_cost_score_and_brought_nothing_is_called_worse() -> None:
    found = judged(distilled(0.58), [BASELINE, QUANTIZED, pruned(0.6)], RECIPE, TARGETS)
    assert (found.verdict.worse_than, found.verdict.best_before) == ("pruned", "quantized")
    assert "pruned scores 0.6000 against 0.5800" in found.notes[-1]
    (remedy,) = [each for each in found.verdict.remedies if each.key == "recipe.distill.rate"]
    assert (remedy.now, remedy.proposed) == (2e-4, 1e-4)


def test_a_row_says_by_which_figures_it_is_behind_the_best_before_it_and_what_is_still_to_come() -> None:
    found = judged(pruned(0.6), [BASELINE, QUANTIZED], RECIPE, TARGETS)
    assert (found.verdict.behind, found.verdict.behind_in) == ("quantized", ("retention",))
    # The fall after a cut is a fact and no alarm: nothing is offered for it, and it is not called worse.
    assert (found.verdict.worse_than, found.verdict.remedies) == (None, ())
    assert found.notes[-1] == (
        "Against the targets this stage is worse than quantized: retention 0.750, there 0.998 (target 0.992). "
        "Still to come: distilled."
    )
    # With nothing to come it is as plain, and a change is offered.
    last = judged(distilled(0.7), [BASELINE, QUANTIZED, found], RECIPE, TARGETS)
    assert (last.verdict.best_before, last.verdict.behind, last.verdict.behind_in) == ("quantized", "quantized", ("retention",))
    assert last.notes[-1].endswith("retention 0.875, there 0.998 (target 0.992).")
    assert last.verdict.remedies
    slow = judged(distilled(0.6, ms=15.0, size=30_000_000), [BASELINE, QUANTIZED, found], RECIPE, TARGETS).verdict
    assert (slow.behind, slow.behind_in) == ("quantized", ("size_reduction", "speed_up", "retention"))


@pytest.mark.parametrize(
    ("before", "last"),
    [
        ([BASELINE], QUANTIZED),  # lost a little, and is nearer to two targets
        ([BASELINE, QUANTIZED], pruned(0.797)),  # meets all
        ([BASELINE, QUANTIZED], pruned(0.791)),  # meets as many and comes nearer
        ([BASELINE, pruned(0.797)], distilled(0.796, ms=8.0)),  # both meet all
        ([BASELINE, pruned(0.794)], distilled(0.79)),  # misses what the other meets, by less than its standard error
        ([BASELINE, pruned(0.797, ms=11.0)], distilled(0.797, ms=11.5)),  # as much, by the clock
    ],
)
def test_a_row_that_is_as_near_to_the_targets_is_not_behind(before: list[Row], last: Row) -> None:
    found = judged(last, before, RECIPE, TARGETS)
    assert (found.verdict.behind, found.verdict.behind_in) == (None, ())
    assert not found.notes


@pytest.mark.parametrize(
    "last",
    [
        distilled(0.595),  # within its standard error
        distilled(0.5, size=10_000_000),  # smaller
        distilled(0.5, ms=5.0, flops=2),  # another graph, which is faster
    ],
)
def test_a_fall_within_its_error_or_with_a_gain_is_not_called_worse(last: Row) -> None:
    assert verdict(RECIPE, BASELINE, QUANTIZED, pruned(0.6), last).worse_than is None


def test_old_reports_stay_readable() -> None:
    old = figures.report().model_dump(mode="json", exclude={"choice": True, "rows": {"__all__": {"verdict", "ranges"}}})
    read = Report.model_validate(old)
    assert (read.choice, read.rows[0].verdict, read.rows[0].ranges) == ("", None, ())
    known = verdict(RECIPE, BASELINE, QUANTIZED, pruned()).model_dump(mode="json", exclude={"behind", "behind_in"})
    assert StageVerdict.model_validate(known).behind is None


def test_what_is_kept_of_a_baseline_at_chance_is_unproven_wherever_it_was_tuned() -> None:
    first = judged(row("baseline", 20_000_000, 80_000_000, 16.0, 0.505), [], RECIPE, TARGETS)
    assert first.convergence == ""
    found = judged(distilled(0.8), [first], RECIPE, TARGETS)
    assert (found.verdict.met, found.verdict.unproven) == (
        ("parameter_reduction", "size_reduction", "speed_up"),
        ("retention",),
    )
    assert "unproven" in choose([first, found], TARGETS)[1]


def test_a_target_that_is_reached_exactly_is_met_whatever_the_last_bits_are() -> None:
    first = row("baseline", 20_000_000, 80_000_000, 16.0, 625 / 872, 625 / 872)
    last = judged(row("distilled", 12_000_000, 10_000_000, 8.0, 0.58, 0.58), [first], RECIPE, TARGETS)
    assert verdicts(last, TARGETS.model_copy(update={"score": 58.0}))["score"].status == "met"
    assert verdicts(last, TARGETS.model_copy(update={"score": 58.01}))["score"].status == "missed"
    kept = changed(last, "ratios", retention_on_validation=(620 / 872) / (625 / 872), retention=None)
    assert kept.ratios.retention_on_validation < 0.992, "otherwise this shows nothing"
    assert verdicts(kept, TARGETS.model_copy(update={"retention": 0.992}))["retention"].status == "met"


def test_a_row_whose_score_is_lost_is_not_shipped_for_its_size() -> None:
    whole = row("baseline", 20_000_000, 80_000_000, 16.0, 0.8, 0.8)
    quantized = row("quantized", 20_000_000, 20_000_000, 16.0, 0.7, 0.7)  # reaches one target, keeps 88 %
    small = row("distilled", 12_000_000, 10_000_000, 16.0, 0.44, 0.44)  # reaches two, keeps 55 %
    chosen, why = choose([whole, quantized, small], TARGETS)
    assert chosen is quantized
    assert "distilled reaches more, but lost the score: 55.0% kept" in why
    milder = row("distilled", 12_000_000, 10_000_000, 16.0, 0.74, 0.74)  # 92.5 %: within ten times what may go
    assert choose([whole, quantized, milder], TARGETS)[0] is milder
    # Where all have lost it, that is said of the chosen one too.
    worse = row("quantized", 20_000_000, 20_000_000, 16.0, 0.5, 0.5)
    assert (
        "distilled reaches more, but lost the score: 55.0% kept; so did quantized: 62.5% kept"
        in choose([whole, worse, small], TARGETS)[1]
    )
    assert "; it lost the score: 62.5% kept; missed" in choose([whole, worse], TARGETS)[1]
    # However little may go, a loss of less than 5 % is none of the score.
    strict = TARGETS.model_copy(update={"retention": 0.999})
    near = row("distilled", 12_000_000, 10_000_000, 16.0, 0.764, 0.764)  # 95.5 %
    assert choose([whole, row("quantized", 20_000_000, 20_000_000, 16.0, 0.79, 0.79), near], strict)[0] is near
    # Nothing that is smaller still is proposed for it.
    assert "recipe.prune.ratio" not in {one.key for one in judged(small, [whole, quantized], RECIPE, TARGETS).verdict.remedies}


def test_a_target_that_even_an_unconverged_original_misses_is_missed() -> None:
    first = converged(row("baseline", 20_000_000, 80_000_000, 16.0, 0.8, 0.8), False)
    for interval, status in (((0.49, 0.60), "missed"), ((0.97, 1.01), "unproven"), (None, "unproven")):
        last = row("distilled", 12_000_000, 10_000_000, 8.0, 0.44, 0.44, interval=interval)
        found = verdicts(judged(last, [first], RECIPE, TARGETS), TARGETS)["retention"]
        assert (found.status, found.met) == (status, False)
        why = choose([judged(first, [], RECIPE, TARGETS), judged(last, [first], RECIPE, TARGETS)], TARGETS)[1]
        assert ("unproven" in why) is (status == "unproven")
        (remedy,) = baseline_remedies(judged(last, [first], RECIPE, TARGETS), first, RECIPE, TARGETS)
        assert ("unproven" in remedy.why) is (status == "unproven")
