"""How many shapes are timed until the mildest fast one is found, with and without a prediction."""

import random

import pytest

from compression.planning.latency_search import GUESSES, LatencySearch

TIMES = [10.0 * 0.95**place for place in range(60)]
HALVES = 6  #: timings that 60 shapes need without a prediction


def timed(times: list[float], limit: float, predicted: list[float] | None = None) -> LatencySearch:
    search = LatencySearch(len(times), limit, predicted)
    while (place := search.following) is not None:
        assert place not in search.measured
        assert search.record(times[place]) is (times[place] <= limit)
    return search


def mildest(times: list[float], limit: float) -> int:
    return next((place for place, ms in enumerate(times) if ms <= limit), len(times))


@pytest.mark.parametrize("limit", [9.9, 5.0, 3.3, 1.0])
@pytest.mark.parametrize("off", [1.0, 0.7, 1.4])
def test_a_prediction_that_is_right_but_for_a_factor_needs_few_timings(limit: float, off: float) -> None:
    search, halves = timed(TIMES, limit, [off * ms for ms in TIMES]), timed(TIMES, limit)
    assert search.found == halves.found == mildest(TIMES, limit)
    assert len(search.measured) <= (2 if off == 1 else 3) < len(halves.measured)
    if 0 < search.found < len(TIMES):
        assert {search.found, search.found - 1} <= search.measured.keys()  # both are measured, whatever was predicted


def test_a_prediction_that_is_wrong_costs_no_more_than_its_guesses() -> None:
    draw = random.Random(0)
    for _ in range(200):
        predicted = [draw.uniform(0.1, 20) for _ in TIMES]
        limit = draw.uniform(0.2, 11)
        search = timed(TIMES, limit, predicted)
        assert search.found == mildest(TIMES, limit)
        assert len(search.measured) <= HALVES + GUESSES


def test_no_shape_is_fast_enough() -> None:
    for predicted in (None, TIMES):
        search = timed(TIMES, 0.01, predicted)
        assert search.found == len(TIMES)
    assert len(search.measured) == 1  # the deepest
    with pytest.raises(ValueError, match="over"):
        search.record(1.0)
