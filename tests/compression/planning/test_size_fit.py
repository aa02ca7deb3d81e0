"""Which size is expected to keep a target, from what short and full distillations of some sizes kept."""

from math import inf

import pytest

from compression.planning.size_fit import (
    MOST_GAIN,
    SizeFit,
    expect,
    extrapolate,
    fit_sizes,
    gain_exponent,
    smallest_share,
    steps_needed,
)
from compression.planning.size_plan import FullTraining, Pace, ShortTraining
from compression.schema.recipe.distill import Distill, General
from compression.schema.report.size_search import KeptAfter, SizeTried
from tests.client.figures import row


def size(error: float, kept: float | None, **own: object) -> SizeTried:
    shape = row("pruned", 1, 1, 1.0, 0.5).shape
    given = {"kind": "short", "share": 0.5, "shape": shape, "layers": (), "parameters": 1, "cost": 0.5, "steps": 100}
    return SizeTried.model_validate({**given, "epochs": 2, "error": error, "kept": kept, "expected": kept, **own})


def curve(*kept: float) -> tuple[KeptAfter, ...]:
    return tuple(KeptAfter(steps=50 * number, kept=each) for number, each in enumerate(kept, 1))


def test_what_is_kept_falls_with_the_error_and_points_that_rise_are_pooled() -> None:
    fit = fit_sizes([size(1.0, 0.98), size(2.0, 0.94), size(3.0, 0.96), size(4.0, 0.90)])
    assert fit.points == ((0.0, 1.0), (1.0, 0.98), (2.5, pytest.approx(0.95)), (4.0, 0.90))
    assert fit.kept_at(0.5) == pytest.approx(0.99)
    assert fit.kept_at(3.25) == pytest.approx(0.925)
    assert fit.kept_at(8.0) == pytest.approx(0.80)  # on the line from an error of 0 to the last point
    errors = [fit.kept_at(each / 10) for each in range(100)]
    assert errors == sorted(errors, reverse=True)


def test_the_margin_falls_with_the_number_of_sizes() -> None:
    one, four = (fit_sizes([size(1.0 + each, 0.99, kept_error=0.01) for each in range(count)]) for count in (1, 4))
    assert (one.margin, four.margin) == (pytest.approx(0.01), pytest.approx(0.005))
    assert four.keeps(1.0, 0.984)
    assert not one.keeps(1.0, 0.984)


def test_on_few_rows_the_margin_is_half_of_what_the_target_lets_go() -> None:
    few = fit_sizes([size(1.0, 1.02, kept_error=0.05), size(3.0, 0.97, kept_error=0.05)])
    assert few.margin > 0.03
    assert few.keeps(1.0, 0.97)  # all is kept there
    assert few.keeps(1.9, 0.97)
    assert not few.keeps(2.1, 0.97)
    assert not few.keeps(1.0, 2.0)


def halved_curve() -> tuple[KeptAfter, ...]:
    return curve(0.80, 0.80 + 0.2 * (1 - 2**-0.3))


def test_losses_fall_by_the_power_of_the_curves_and_no_faster_than_the_most() -> None:
    assert gain_exponent([halved_curve()]) == pytest.approx(0.3)
    assert gain_exponent([curve(0.5, 0.9)]) == MOST_GAIN
    assert gain_exponent([curve(0.9, 0.8)]) == 0.0
    assert gain_exponent([curve(0.9), curve(1.0, 1.01)]) is None
    assert extrapolate(0.9, 100, 1600, 0.25) == pytest.approx(0.95)
    assert extrapolate(1.02, 100, 1600, 0.25) == 1.02
    assert extrapolate(0.9, 100, 50, 0.25) == 0.9


def test_a_full_distillation_corrects_what_is_expected_of_other_sizes() -> None:
    tried = [size(1.0, 0.98, curve=curve(0.98, 0.98)), size(2.0, 0.96, curve=curve(0.96, 0.96))]
    before, gain = expect(tried, 1000)
    assert gain == 0.0
    assert [one.expected for one in before] == [0.98, 0.96]
    _, taught = expect([size(1.0, 0.98)], 1000, [halved_curve()])  # its own curve says nothing
    assert taught == pytest.approx(0.3)
    full = size(1.0, 0.96, kind="full", expected=None)  # it lost twice what was expected
    after, _ = expect([*tried, full], 1000)
    assert [one.expected for one in after] == [pytest.approx(0.96), pytest.approx(0.92), None]
    assert fit_sizes(after).kept_at(2.0) == pytest.approx(0.92)
    gained = size(1.0, 1.01, kind="full", expected=None)
    after, _ = expect([*tried, gained], 1000)
    assert [one.expected for one in after[:2]] == [1.01, pytest.approx(0.996)]  # its own, and of others not all of it


def test_the_smallest_share_that_is_expected_to_keep_the_target_is_found() -> None:
    fit = SizeFit(((0.0, 1.0), (1.0, 0.9)), margin=0.0)
    asked: list[float] = []

    def error_at(share: float) -> float:
        asked.append(share)
        return 1 - share

    share = smallest_share(fit, 0.96, error_at, 0.1, 0.95)  # 0.4 of error may be
    assert 0.6 <= share <= 0.62
    assert len(asked) <= 8
    assert smallest_share(fit, 0.5, error_at, 0.1, 0.95) == 0.1
    assert smallest_share(fit, 1.5, error_at, 0.1, 0.95) == 0.95


def test_the_steps_that_a_missed_target_takes_follow_from_the_power() -> None:
    assert steps_needed(0.96, 100, 0.98, 0.5) == pytest.approx(400)
    assert steps_needed(0.99, 100, 0.98, 0.5) == 100
    assert steps_needed(0.96, 100, 0.98, 0.0) == inf
    assert steps_needed(0.96, 100, 1.0, 0.5) == inf
    assert steps_needed(0.96, 100, 0.98, 0.16) == pytest.approx(100 * 2**6.25)
    assert steps_needed(0.96, 100, 0.98, 0.15) == inf, "more than a hundred times as many"


def test_a_full_distillation_is_fitted_into_the_time_that_is_left() -> None:
    asked = FullTraining.of(Distill(epochs=8, general=General(epochs=4)), 10, 20)
    second = Pace(1.0)
    assert asked.seconds(second) == 160
    assert asked.fitted(second, 200) == asked
    assert asked.fitted(second, 160) == asked
    half = asked.fitted(second, 80)
    assert (half.epochs, half.general_epochs, half.steps) == (4, 2, 40)
    for pace, left in ((second, -5.0), (Pace(0.0), -5.0), (None, -5.0), (None, 5.0)):  # None: no time to try any size
        least = asked.fitted(pace, left)
        assert (least.epochs, least.general_epochs) == (1, 1)
    assert FullTraining.of(Distill(epochs=8), 10, 20).fitted(second, 40).general_epochs == 0


@pytest.mark.parametrize(("left", "epochs"), [(320, 8), (300, 7), (240, 6), (200, 8), (160, 8), (80, 4)])
def test_the_first_full_distillation_leaves_time_for_a_second_one_where_both_are_nearly_whole(left: int, epochs: int) -> None:
    asked, second = FullTraining.of(Distill(epochs=8, general=General(epochs=4)), 10, 20), Pace(1.0)
    first = asked.first(second, left)
    assert first.epochs == epochs
    assert asked.is_time_twice(second, left) is (left >= 240)
    if asked.is_time_twice(second, left):
        assert asked.fitted(second, left - first.seconds(second)).epochs >= 6
    assert asked.first(None, left) == asked.least  # no time to try any size


@pytest.mark.parametrize(("epochs", "first"), [(2, 1.9), (8, 1.3)])
def test_epochs_are_whole_so_that_half_of_the_time_may_be_too_little(epochs: int, first: float) -> None:
    asked, second = FullTraining.of(Distill(epochs=epochs), 10, 0), Pace(1.0)
    assert asked.first(second, first * asked.seconds(second)).epochs == epochs


def test_a_short_distillation_takes_a_part_of_many_rows_and_several_passes_over_few() -> None:
    assert ShortTraining.of(200, 100_000, 32, all_rows=False) == ShortTraining(3200, 2, 200)
    assert ShortTraining.of(200, 640, 32, all_rows=False) == ShortTraining(640, 10, 200)
    assert ShortTraining.of(200, 100_000, 32, all_rows=True) == ShortTraining(100_000, 1, 3125)


@pytest.mark.parametrize("judging", [0.0, 5.0])
@pytest.mark.parametrize("left", [31, 40, 57, 90, 120])
def test_what_is_fitted_takes_no_longer_than_is_left(left: int, judging: float) -> None:
    asked, pace = FullTraining.of(Distill(epochs=3, general=General(epochs=10)), 10, 20), Pace(1.0, judging)
    passes = 6  # before and after the epoch of each phase, the teacher's, and the last one
    assert asked.least.seconds(pace) == 30 + passes * judging
    assert asked.fitted(pace, left + passes * judging).seconds(pace) <= left + passes * judging


def test_passes_over_validation_count_with_the_epochs_and_not_with_the_steps() -> None:
    asked = FullTraining.of(Distill(epochs=8), 100, 0)
    assert asked.seconds(Pace(1.0, 20.0)) == 800 + 10 * 20
    assert asked.fitted(Pace(1.0, 20.0), 1000).epochs == 8
    assert asked.fitted(Pace(1.0, 20.0), 40 + 4 * 120).epochs == 4
