"""Reads the energy that a machine uses from the counters that it has: RAPL's, or the rails of a Jetson board. Torch-free."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from compression.schema.report.measurements import NotMeasured

SYS = Path("/sys")
SECONDS_BETWEEN = 0.02  #: samples of the power of rails
TOTALS = (("VDD_IN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
"""Labels of the rails that make up a Jetson module's power: of Orin Nano and NX and Xavier NX; of Nano and TX2; of AGX Orin.
Rails such as VDD_CPU_GPU_CV are behind VDD_IN and would count twice."""
CLOSED = (
    "The counters of RAPL are there, but this user may not read them: since Linux 5.10 only root may (CVE-2020-8694). Run the "
    "profile as root, or allow it: sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj (until the next start)."
)
NONE = (
    "No sensor of energy was found: neither RAPL's counters (class/powercap/intel-rapl:*) nor the rails of a Jetson board "
    "(class/hwmon, ina3221). Virtual machines and containers often lack them: profile on the machine itself."
)


class Sensor(Protocol):
    """A counter of energy. It is opened, read at the ends of each window, and closed."""

    name: str  #: what is read, for people

    def joules(self) -> float:
        """Return the energy since the sensor was opened. Raises OSError if it can no longer be read."""

    def close(self) -> None:
        """Stop reading."""


class Rapl:
    """Counters of processor packages and their memory (Linux powercap: energy_uj, which starts over behind its largest value).

    A read must follow the last within one round of the counter: minutes at full power.
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = [(zone / "energy_uj", _integer(zone / "max_energy_range_uj")) for zone in zones]
        self.name = f"RAPL {' + '.join(_text(zone / 'name') for zone in zones)}"[:200]
        self._last = [_integer(path) for path, _ in self._zones]
        self._total = 0

    def joules(self) -> float:
        """Return the energy since the start, in joules."""
        for number, (path, most) in enumerate(self._zones):
            now = _integer(path)
            step = now - self._last[number]
            self._total += step if step >= 0 else step + most
            self._last[number] = now
        return self._total / 1e6

    def close(self) -> None:
        """Nothing is open between reads."""


class Rails:
    """The power of rails, voltage times current, summed over time by the trapezoidal rule.

    channels: files with millivolts and milliamperes of each.
    """

    def __init__(self, channels: Sequence[tuple[Path, Path]], labels: Sequence[str]) -> None:
        self._channels = channels
        self.name = f"INA3221 {' + '.join(labels)}"
        self._lock, self._ended, self._joules = threading.Lock(), threading.Event(), 0.0
        self._at, self._watts = time.perf_counter(), self._power()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        """Return the energy since the start, in joules."""
        with self._lock:
            now, watts = time.perf_counter(), self._power()
            self._joules += (now - self._at) * (watts + self._watts) / 2
            self._at, self._watts = now, watts
            return self._joules

    def close(self) -> None:
        """End the thread that samples."""
        self._ended.set()
        self._thread.join()

    def _power(self) -> float:
        return sum(_integer(volts) * _integer(amperes) for volts, amperes in self._channels) / 1e6

    def _sample(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN):
            with suppress(OSError, ValueError):  # the next sample, or the reader, sees it too
                self.joules()


def find_sensor(root: Path = SYS) -> Sensor | NotMeasured:
    """Open the machine's sensor, or return why there is none. root: of the system's devices, /sys."""
    try:
        if zones := _rapl_zones(root):
            return Rapl(zones)
        rails = {_text(label): label for label in root.glob("class/hwmon/hwmon*/in[123]_label") if _is_of_board(label)}
        labels = next((total for total in TOTALS if set(total) <= set(rails)), None)
        if labels is not None:
            return Rails([(_beside(rails[label], "in"), _beside(rails[label], "curr")) for label in labels], labels)
        unknown = f"Of this board's rails it is not known which are its total: {', '.join(sorted(rails))}."
        return NotMeasured(not_measured=unknown if rails else NONE)
    except PermissionError:
        return NotMeasured(not_measured=CLOSED)
    except (OSError, ValueError) as problem:
        return NotMeasured(not_measured=f"The sensor of energy cannot be read: {problem}.")


def _rapl_zones(root: Path) -> list[Path]:
    """Return the zones of packages, and of memory within them, whose energy that of the package leaves out.

    Zones of intel-rapl-mmio count the same packages again, and psys counts them with the rest of the machine.
    """
    zones = sorted(root.glob("class/powercap/intel-rapl:*"))
    return [zone for zone in zones if _text(zone / "name").startswith(("package-", "dram"))]


def _is_of_board(label: Path) -> bool:
    return _text(label.parent / "name") == "ina3221"


def _beside(label: Path, what: str) -> Path:
    """Return the file of a channel's measured value. what: in (millivolts) or curr (milliamperes)."""
    return label.parent / f"{what}{label.name[2]}_input"


def _text(path: Path) -> str:
    """Return a file's line, or nothing if it cannot be read."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _integer(path: Path) -> int:
    return int(path.read_text("ascii"))
