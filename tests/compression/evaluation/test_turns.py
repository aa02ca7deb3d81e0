"""What other processes of the machine do to a timed pass is not the model's time."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from compression.evaluation import turns
from compression.evaluation.turns import Pass, Timer, Turns
from compression.system.processor_waits import ProcessorWaits
from tests.conftest import wait_for

SECONDS = 0.01


def work(seconds: float = SECONDS) -> None:
    """Compute for so long, by the processor's time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.fixture
def shared_core() -> Iterator[None]:
    """One core for this process and another one that never rests."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # it has the same core
    yield
    other.kill()
    other.wait()
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("shared_core")
def test_a_pass_that_another_process_interrupts_is_as_long_as_its_work_and_is_told() -> None:
    started, found = time.perf_counter(), list[Pass]()
    with Timer(1) as timer:
        while len(found) < 30 or not any(one.interrupted for one in found):
            found.append(timer.time(work))
            assert time.perf_counter() - started < 60
    whole = 1000 * (time.perf_counter() - started)
    own = sum(one.milliseconds for one in found)
    assert own < 1.5 * 1000 * SECONDS * len(found) < whole, "else nothing interrupted them"


@pytest.mark.usefixtures("shared_core")
def test_what_one_of_several_threads_waited_is_told_but_not_taken_off() -> None:
    with Timer(2) as timer:
        end = time.monotonic() + 60
        while not (one := timer.time(work)).interrupted:
            assert time.monotonic() < end
    assert one.milliseconds * 1e6 == pytest.approx(one.worked)  # of wall-clock time


def test_it_is_waits_for_a_processor_alone_that_do_not_count() -> None:
    end = time.monotonic() + 60
    with Timer(1) as timer:
        # Who wakes on a busy machine may wait for a processor: that pass tells nothing of sleep.
        while (asleep := timer.time(lambda: time.sleep(0.05))).interrupted:
            assert time.monotonic() < end
    assert asleep.milliseconds > 45


@pytest.mark.usefixtures("shared_core")
def test_what_another_thread_of_the_process_waits_for_is_not_taken_off() -> None:
    done = threading.Event()

    def waits_often() -> None:
        while not done.is_set():
            time.sleep(0.0005)
            sum(range(2000))

    worked: list[float] = []

    def ask() -> None:
        start = time.thread_time()
        sum(range(20_000))
        worked.append(time.thread_time() - start)

    others = [threading.Thread(target=waits_often) for _ in range(4)]
    for other in others:
        other.start()
    try:
        with Timer(1) as timer:
            passes = [timer.time(ask) for _ in range(60)]
    finally:
        done.set()
    for other in others:
        other.join()
    assert all(one.milliseconds >= 900 * own for one, own in zip(passes, worked, strict=True))


def test_the_waits_of_a_thread_that_has_ended_are_none() -> None:
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    with ProcessorWaits() as waits:
        assert len(waits.read()) >= 2
        done.set()
        other.join()
        wait_for(lambda: 0 in waits.read(), 60)  # join returns a little before the kernel's thread is gone


def turns_of(*interrupted: bool) -> Turns:
    """Turns in which the candidate takes 1 ms and the baseline 2, and ten times as long if one is interrupted."""
    found = Turns()
    for one in interrupted:
        longer = 10 if one else 1
        found.add([Pass(longer, 100 * longer, one), Pass(2 * longer, 200 * longer, False)])
    return found


def test_interrupted_turns_do_not_count_unless_too_few_others_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FEWEST_QUIET", 2)
    found = turns_of(True, False, True, False, True)
    assert found.disturbed == 0.6
    quiet = found.quiet()
    assert (quiet.milliseconds, quiet.worked) == (([1, 1], [2, 2]), ([100, 100], [200, 200]))
    few = turns_of(True, False, True)
    assert few.quiet() is few


def test_a_single_pass_is_both_sides() -> None:
    found = Turns()
    found.add([Pass(1, 100, False)])
    assert found.milliseconds == ([1], [1])


def test_a_speed_up_has_an_interval_that_is_wider_where_turns_in_a_row_are_alike() -> None:
    random = np.random.default_rng(3)
    own, reference = (list(random.normal(mean, 0.1, 200)) for mean in (1.0, 2.5))
    low, high = turns.speed_up_interval(own, reference)
    assert low < 2.5 < high
    assert high - low < 0.15
    drifts = [time * (1.2 if number // 40 % 2 else 0.8) for number, time in enumerate(reference)]
    wide = turns.speed_up_interval(own, drifts)
    assert wide[1] - wide[0] > 3 * (high - low)


def test_what_is_its_own_baseline_or_has_few_turns_has_no_interval() -> None:
    assert turns.speed_up_interval([1.0, 1.1] * 20, [1.0, 1.1] * 20) is None
    assert turns.speed_up_interval([1.0] * 15, [2.0] * 15) is None
