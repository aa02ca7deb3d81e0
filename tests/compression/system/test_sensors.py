"""Energy is read from the counters of a made tree, as the kernel shows them; where none can be read, the reason is told."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from compression.schema.report.measurements import NotMeasured
from compression.system.device_facts import device_facts
from compression.system.sensors import CLOSED, NONE, find_sensor

NOBODY = 65534


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in place of /sys, which every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def zone(root: Path, number: str, name: str, energy: int, most: int = 1_000_000_000) -> Path:
    place = root / "class" / "powercap" / number
    place.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (place / file).write_text(f"{value}\n")
    return place / "energy_uj"


def rail(root: Path, hwmon: int, channel: int, label: str, volts: int, amperes: int, chip: str = "ina3221") -> None:
    place = root / "class" / "hwmon" / f"hwmon{hwmon}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "name").write_text(f"{chip}\n")
    for file, value in ((f"in{channel}_label", label), (f"in{channel}_input", volts), (f"curr{channel}_input", amperes)):
        (place / file).write_text(f"{value}\n")


def test_packages_and_their_memory_are_summed_and_nothing_is_counted_twice(root: Path) -> None:
    package, cores = zone(root, "intel-rapl:0", "package-0", 5_000_000), zone(root, "intel-rapl:0:0", "core", 0)
    memory, whole = zone(root, "intel-rapl:0:1", "dram", 0), zone(root, "intel-rapl:1", "psys", 0)
    again = zone(root, "intel-rapl-mmio:0", "package-0", 0)
    sensor = find_sensor(root)
    assert not isinstance(sensor, NotMeasured)
    assert sensor.name == "RAPL package-0 + dram"
    assert sensor.joules() == 0
    package.write_text("7500000")
    memory.write_text("250000")
    for other in (cores, whole, again):
        other.write_text("9000000")
    assert sensor.joules() == 2.75


def test_a_counter_that_starts_over_loses_nothing(root: Path) -> None:
    counter = zone(root, "intel-rapl:0", "package-0", 99_000_000, most=100_000_000)
    sensor = find_sensor(root)
    assert not isinstance(sensor, NotMeasured)
    for reading, total in ((4_000_000, 5.0), (90_000_000, 91.0), (1_000_000, 102.0)):
        counter.write_text(str(reading))
        assert sensor.joules() == total


def test_a_counter_that_only_root_may_read_is_told_with_the_remedy(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", 0).chmod(0o400 if os.geteuid() == 0 else 0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        found = find_sensor(root)
    finally:
        if before == 0:
            os.seteuid(before)
    assert found == NotMeasured(not_measured=CLOSED)
    assert "chmod a+r" in CLOSED


def test_without_a_sensor_the_reason_is_told_and_not_a_zero(root: Path) -> None:
    (root / "class" / "powercap").mkdir(parents=True)
    assert find_sensor(root) == NotMeasured(not_measured=NONE)
    rail(root, 0, 1, "VDD_IN", 5000, 1000, chip="max1619")
    assert find_sensor(root) == NotMeasured(not_measured=NONE)


def test_a_damaged_counter_is_told(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", 0).write_text("much")
    found = find_sensor(root)
    assert isinstance(found, NotMeasured)
    assert "cannot be read" in found.not_measured


@pytest.mark.parametrize(
    ("rails", "name", "watts"),
    [
        ({"VDD_IN": 1000, "VDD_CPU_GPU_CV": 600, "VDD_SOC": 300}, "INA3221 VDD_IN", 5.0),
        ({"VDD_GPU_SOC": 100, "VDD_CPU_CV": 200, "VIN_SYS_5V0": 300}, "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 3.0),
    ],
)
def test_the_power_of_a_boards_rails_is_summed_over_time(rails: dict[str, int], name: str, watts: float, root: Path) -> None:
    for channel, (label, amperes) in enumerate(rails.items(), 1):
        rail(root, 3, channel, label, 5000, amperes)
    before = time.perf_counter()
    sensor = find_sensor(root)
    opened = time.perf_counter()
    assert not isinstance(sensor, NotMeasured)
    with closing(sensor):
        assert sensor.name == name
        time.sleep(0.05)
        shortest = time.perf_counter() - opened
        joules = sensor.joules()
        longest = time.perf_counter() - before
    assert watts * shortest <= joules <= watts * longest  # the power is constant


def test_rails_whose_sum_is_not_known_are_named(root: Path) -> None:
    rail(root, 3, 1, "VDD_NEW", 5000, 100)
    found = find_sensor(root)
    assert isinstance(found, NotMeasured)
    assert "VDD_NEW" in found.not_measured


def test_a_device_tells_its_machine_its_runtimes_and_its_sensor(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", 0)
    found = device_facts(root)
    assert found.sensor == "RAPL package-0"
    assert found.cores >= 1
    assert found.memory_bytes > 0
    assert {"onnxruntime", "openvino"} <= set(found.runtimes)
