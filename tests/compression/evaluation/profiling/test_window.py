"""Energy above idle is the difference of two windows, with an error from their parts; memory and times are of the passes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from compression.evaluation.profiling.window import (
    FEWEST_PASSES,
    Power,
    energy_of,
    idle_power,
    latency_of,
    sampled_memory,
    timed,
)
from compression.schema.profile import MOST_SAMPLES, Energy
from compression.schema.report.measurements import NotMeasured
from compression.system.sensors import find_sensor
from tests.compression.system.test_sensors import zone

BACKGROUND = """
import os, sys, time
path, start = sys.argv[1], time.monotonic()
while True:  # two watts, whatever is computed
    with open(path + ".new", "w") as file:
        file.write(str(int(2e6 * (time.monotonic() - start))))
    os.replace(path + ".new", path)
    print(flush=True)
    time.sleep(0.002)
"""


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Let another process advance a counter, as the rest of a machine does."""
    child = subprocess.Popen([sys.executable, "-c", BACKGROUND, path], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        with child.stdout, subprocess.Popen(["cat"], stdin=child.stdout, stdout=subprocess.DEVNULL):
            yield
            child.kill()
    finally:
        child.kill()
        child.wait()


def test_what_idles_is_subtracted_from_what_passes_use(tmp_path: Path) -> None:
    with running(zone(tmp_path, "intel-rapl:0", "package-0", 0)):
        passes, used = count(1), zone(tmp_path, "intel-rapl:1", "package-1", 0, most=10**12)

        def run() -> None:  # each pass takes 50 J of the second package
            (tmp_path / "new").write_text(str(next(passes) * 50_000_000))
            (tmp_path / "new").replace(used)

        sensor = find_sensor(tmp_path)
        assert not isinstance(sensor, NotMeasured)
        idle = idle_power(sensor, 0.3)
        window = timed(run, 0.3, sensor)
    assert window.power is not None
    assert 0 <= idle.watts < 100
    rate = 4 * len(window.times_ms) / window.seconds  # of four rows each
    found = energy_of(idle, window.power, rate, sensor.name)
    assert isinstance(found, Energy)
    assert found.joules_per_row == pytest.approx(50 / 4, rel=0.2)
    assert found.idle_watts == idle.watts
    assert found.watts == pytest.approx(found.joules_per_row * rate)
    assert found.source == "RAPL package-0 + package-1"


def test_the_error_of_the_power_is_from_the_parts_of_both_windows() -> None:
    idle, busy = Power(20.0, 2.0, (9.0, 11.0)), Power(60.0, 2.0, (27.0, 33.0))
    found = energy_of(idle, busy, 10.0, "RAPL package-0")
    assert isinstance(found, Energy)
    assert (found.watts, found.idle_watts, found.joules_per_row, found.window_seconds) == (20.0, 10.0, 2.0, 2.0)
    assert found.error_watts == pytest.approx((1**2 + 3**2) ** 0.5)  # 2 / √2 / √2 and 6 / √2 / √2 ... of each window


def test_power_that_does_not_rise_above_idle_is_not_a_zero() -> None:
    same = Power(20.0, 2.0, (9.0, 11.0))
    found = energy_of(same, same, 10.0, "RAPL package-0")
    assert isinstance(found, NotMeasured)
    assert "10 W while it waited" in found.not_measured
    few = energy_of(same, Power(60.0, 2.0, (30.0,)), 10.0, "RAPL package-0")
    assert isinstance(few, NotMeasured)
    assert "more seconds" in few.not_measured


def test_a_window_has_a_few_passes_however_short_it_is() -> None:
    done: list[int] = []
    window = timed(lambda: done.append(1), 1e-9)
    assert len(done) == len(window.times_ms) == FEWEST_PASSES
    assert window.power is None
    assert window.seconds >= sum(window.times_ms) / 1000


def test_samples_are_thinned_and_summed_up_from_all() -> None:
    times = [float(number) for number in range(1, 2 * MOST_SAMPLES + 2)]
    found = latency_of(times)
    assert len(found.samples_ms) <= MOST_SAMPLES
    assert found.samples_ms[:3] == [1.0, 4.0, 7.0]
    assert found.median_ms == MOST_SAMPLES + 1
    assert found.p95_ms == pytest.approx(0.95 * 2 * MOST_SAMPLES + 1)


def test_the_range_of_memory_holds_what_was_taken_meanwhile() -> None:
    with sampled_memory() as range_so_far:
        taken = bytearray(os.urandom(1 << 20)) * 64
        found = range_so_far()
    assert found.max_bytes - found.min_bytes >= 0.9 * len(taken)
