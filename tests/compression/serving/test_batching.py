"""When a batch is run, and of how many rows."""

import math
import random
from collections import deque

import pytest
from hypothesis import given, strategies

from compression.serving.batching import Arrivals, BatchRules, BatchTime, Line, Queue, length_group

CHEAP_TOGETHER, CHEAP_ALONE = Line(0.004, 0.001), Line(0.0, 0.005)
"""Seconds of a batch: one whose fixed cost is most of it, and one that rows do not share."""
RULES = BatchRules(most=16, target=0.1)


def queue(here: int, *, everywhere: int | None = None, age: float = 0.0, gap: float = math.inf) -> Queue:
    return Queue(here, here if everywhere is None else everywhere, age, gap, gap)


@given(length=strategies.integers(0, 5000), other=strategies.integers(0, 5000))
def test_rows_of_a_group_are_of_like_length(length: int, other: int) -> None:
    group = length_group(length)
    assert length_group(group) == group >= length
    assert group - length < max(8, group / 3)
    assert (length <= other) <= (group <= length_group(other))


def test_the_time_of_a_batch_is_fitted() -> None:
    times, draw = BatchTime(), random.Random(0)
    assert times.line is None
    for _ in range(40):
        rows = draw.randint(1, 16)
        times.observe(rows, 0.004 + 0.001 * rows)
    assert times.line is not None
    assert (times.line.fixed, times.line.per_row) == pytest.approx((0.004, 0.001))
    for _ in range(80):  # the machine has become half as fast
        rows = draw.randint(1, 16)
        times.observe(rows, 0.008 + 0.002 * rows)
    assert (times.line.fixed, times.line.per_row) == pytest.approx((0.008, 0.002), rel=0.01)


def test_what_was_timed_at_the_start_tells_the_fixed_cost_from_the_rows_and_follows_the_level() -> None:
    times = BatchTime({1: 0.005, 8: 0.012})
    assert times.line is not None
    assert (times.line.fixed, times.line.per_row) == pytest.approx((0.004, 0.001))
    for _ in range(100):
        times.observe(1, 0.010)
    assert (times.line.fixed, times.line.per_row) == pytest.approx((0.008, 0.002))


def test_batches_of_one_size_and_such_as_cost_more_together_have_no_fixed_cost() -> None:
    same, worse = BatchTime(), BatchTime({1: 0.005, 8: 0.06})
    for _ in range(3):
        same.observe(4, 0.02)
    assert (same.line, worse.line) == (Line(0.0, pytest.approx(0.005)), Line(0.0, pytest.approx(0.485 / 65)))
    assert RULES.rows(worse.line, queue(16)) == 1


def test_the_rate_follows_the_load_and_a_silence_ends_it() -> None:
    arrivals = Arrivals(longest=0.1)
    assert arrivals.gap(0.0) == math.inf
    moment = 0.0
    for _ in range(100):
        moment += 0.01
        arrivals.arrive(moment)
    assert arrivals.gap(moment) == pytest.approx(0.01)
    assert arrivals.gap(moment + 5) == 5
    moment += 60  # a pause counts as the longest gap
    arrivals.arrive(moment)
    assert arrivals.gap(moment) == pytest.approx(0.01 + 0.1 * 0.09)


def test_batches_grow_with_the_queue_if_rows_share_a_cost() -> None:
    sizes = [RULES.rows(CHEAP_TOGETHER, queue(waiting)) for waiting in (1, 2, 4, 8, 12, 40)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, 16)
    assert sizes[3] >= 6
    assert [RULES.rows(CHEAP_ALONE, queue(waiting)) for waiting in (1, 8, 40)] == [1, 1, 1]
    assert RULES.rows(None, queue(9)) == 9  # nothing is known yet: it is tried


def test_rows_do_not_join_a_batch_that_they_make_late_unless_it_is_late_already() -> None:
    line = Line(0.02, 0.01)
    assert RULES.rows(line, queue(16)) == 8
    assert RULES.rows(line, queue(16, age=0.04)) == 4
    assert RULES.rows(line, queue(16, age=0.09)) == 11  # which a target no longer bounds


def test_only_what_comes_soon_is_waited_for() -> None:
    assert RULES.wait(CHEAP_TOGETHER, queue(1, gap=0.0005)) == 0.0005
    assert RULES.wait(CHEAP_TOGETHER, queue(1, gap=0.005)) == 0  # longer than what it saves
    assert RULES.wait(CHEAP_TOGETHER, queue(1)) == 0
    assert RULES.wait(CHEAP_ALONE, queue(1, gap=0.0001)) == 0
    assert RULES.wait(None, queue(1, gap=0.0001)) == 0
    assert RULES.wait(CHEAP_TOGETHER, queue(16, gap=0.0005)) == 0  # the batch is full
    assert RULES.wait(CHEAP_TOGETHER, queue(1, everywhere=2, gap=0.0005)) == 0  # others wait for the model
    assert RULES.wait(CHEAP_TOGETHER, queue(1, age=0.095, gap=0.0005)) == 0  # it would be late


def simulated(rate: float, line: Line, rules: BatchRules, rows: int = 3000) -> tuple[list[float], list[int]]:
    """Serve rows that arrive at random -> the seconds that each took, and the batches' sizes."""
    draw, moment, coming = random.Random(1), 0.0, deque[float]()
    for _ in range(rows):
        moment += draw.expovariate(rate)
        coming.append(moment)
    arrivals, waiting, took, sizes, now = Arrivals(rules.target), deque[float](), [], [], 0.0
    while coming or waiting:
        now = max(now, coming[0]) if not waiting else now
        while coming and coming[0] <= now:
            arrivals.arrive(coming[0])
            waiting.append(coming.popleft())
        state = queue(len(waiting), age=now - waiting[0], gap=arrivals.gap(now))
        if coming and (pause := rules.wait(line, state)):
            now = min(now + pause, coming[0])
            continue
        size = rules.rows(line, state)
        now += line.seconds(size)
        took += [now - waiting.popleft() for _ in range(size)]
        sizes.append(size)
    return sorted(took), sizes


def test_three_times_the_load_of_single_rows_is_served_in_time() -> None:
    alone, most = 1 / CHEAP_TOGETHER.seconds(1), RULES.most / CHEAP_TOGETHER.seconds(RULES.most)
    took, sizes = simulated(3 * alone, CHEAP_TOGETHER, RULES)
    assert most / alone > 3.5
    assert took[int(0.99 * len(took))] < RULES.target
    assert max(sizes) > 4
    single, _ = simulated(3 * alone, CHEAP_TOGETHER, BatchRules(1, RULES.target))
    assert single[len(single) // 2] > 10 * RULES.target


def test_rare_rows_go_alone_and_at_once() -> None:
    took, sizes = simulated(2.0, CHEAP_TOGETHER, RULES, rows=300)
    assert sum(sizes) / len(sizes) < 1.02
    assert took[len(took) // 2] == pytest.approx(CHEAP_TOGETHER.seconds(1))


def test_where_rows_share_nothing_batches_cost_nothing() -> None:
    rate = 0.8 / CHEAP_ALONE.per_row
    together, sizes = simulated(rate, CHEAP_ALONE, RULES)
    alone, _ = simulated(rate, CHEAP_ALONE, BatchRules(1, RULES.target))
    assert max(sizes) == 1
    assert together == alone
