"""Rows of a GPU: figures by batch, reasons in their place, and the card's clocks around them."""

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from compression.evaluation.on_card import measure, timing
from compression.evaluation.on_card.measure import CardSpec, TimedModel, measure_card, time_model
from compression.evaluation.on_card.runtimes import CardModel, Unavailable
from compression.schema.report.card_rows import CardReport
from compression.system import card_state as states
from compression.system.card_state import card_state
from compression.system.host_lock import LOCK_VARIABLE, WAIT_VARIABLE

MODELS = (TimedModel(stage="baseline", folder="/a"), TimedModel(stage="distilled", folder="/b", onnx="/c"))
SPEC = CardSpec(task="causal-lm", models=MODELS, batches=(1, 4), length=100, seconds=0.05)


class Counted:
    """A runtime that takes 2 ms a row and pass, and 0.5 ms a further token, by a clock of its own."""

    version, timed_by, continues = "counted 1.0", "a clock", True

    def __init__(self, model: CardModel, most: int = 100) -> None:
        self.model, self.most, self.now = model, most, 0.0

    def call(self, batch: int, length: int, tokens: int = 0) -> Callable[[], object]:
        if batch > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore of it")

        def run() -> None:
            self.now += 2.0 * batch + 0.5 * tokens

        return run

    def timer(self, call: Callable[[], object]) -> float:
        before = self.now
        call()
        return self.now - before

    def peak_bytes(self) -> int:
        return 123


def test_figures_follow_from_the_times_of_passes_and_of_what_tokens_add() -> None:
    row, works = time_model(SPEC, MODELS[0], "counted", Counted)
    assert works
    one, four = row.figures
    assert (one.batch, one.length, one.median_ms, one.rows_per_second) == (1, 100, 2.0, 500.0)
    assert (four.median_ms, four.rows_per_second) == (8.0, 500.0)
    assert (one.prefill_per_second, one.decode_ms, four.decode_per_second) == (
        50_000.0,
        pytest.approx(0.5),
        pytest.approx(8000),
    )
    assert one.peak_bytes == 123
    assert (row.version, row.timed_by, row.not_measured) == ("counted 1.0", "a clock", None)
    assert "batch 1 × 100 tokens 2 ms, 500 rows a second, 0.5 ms a further token" in row.text
    classes, _ = time_model(SPEC.model_copy(update={"task": "text-classification"}), MODELS[0], "counted", Counted)
    assert classes.figures[0].length == 100


def test_a_batch_that_does_not_fit_leaves_the_figures_of_smaller_ones() -> None:
    row, works = time_model(SPEC, MODELS[0], "counted", lambda model: Counted(model, most=1))
    assert works
    assert [each.batch for each in row.figures] == [1]
    assert row.not_measured == "OutOfMemoryError: CUDA out of memory."
    assert "larger batches not measured" in row.text


def test_a_runtime_that_is_not_there_has_its_reason() -> None:
    def absent(_: CardModel) -> Any:
        raise Unavailable("it is not installed.")

    row, works = time_model(SPEC, MODELS[1], "vLLM", absent)
    assert works
    assert row.text == "distilled in vLLM not measured: it is not installed."
    assert not row.figures


def test_all_models_are_timed_in_all_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="A card", uuid="1-2"))
    seen = list[str]()
    monkeypatch.setattr(measure, "card_state", lambda uuid: seen.append(uuid) or states.CardState(sm_mhz=len(seen)))
    *earlier, found = measure_card(SPEC, {"one": Counted, "other": Counted})
    assert [(row.stage, row.runtime) for row in found.rows] == [
        ("baseline", "one"),
        ("distilled", "one"),
        ("baseline", "other"),
        ("distilled", "other"),
    ]
    assert seen == ["GPU-1-2"] * 5
    assert [sum(row.not_measured is None for row in each.rows) for each in earlier] == [1, 2, 3]
    assert earlier[0].rows[0] == found.rows[0]
    assert earlier[0].rows[1].text == "distilled in one not measured: the measurement ended before its turn."
    assert found.conditions == "The GPU before: 1 MHz; after: 5 MHz."
    assert CardReport.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("where", ["pass", "release"])
def test_once_the_gpu_fails_the_rest_has_that_reason(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="A card", uuid="1-2"))
    opened: list[str] = []
    broken = RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it")

    class Breaking(Counted):
        def call(self, batch: int, length: int, tokens: int = 0) -> Callable[[], object]:
            if (self.model.folder.name, where) == ("b", "pass"):
                raise broken
            return super().call(batch, length, tokens)

    def open_model(model: CardModel) -> Counted:
        opened.append(model.folder.name)
        return Breaking(model)

    def release() -> None:
        if opened[-1] == "b" and where == "release":
            raise broken

    monkeypatch.setattr(measure, "release_device_memory", release)
    *_, found = measure_card(SPEC, {"one": open_model, "other": open_model})
    assert opened == ["a", "b"]
    first, second, *others = found.rows
    assert first.not_measured is None
    assert second.not_measured == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert bool(second.figures) == (where == "release")
    assert [row.not_measured for row in others] == [measure.FAILED] * 2


def test_each_row_has_the_hosts_lock_and_says_if_it_had_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="A card", uuid="1-2"))
    monkeypatch.setenv(LOCK_VARIABLE, str(tmp_path / "lock"))
    monkeypatch.setenv(WAIT_VARIABLE, "0.05")
    other = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    found: CardReport | None = None
    for done, found in enumerate(measure_card(SPEC, {"one": Counted, "other": Counted}), 1):  # noqa: B007 (the last)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB if done == 1 else fcntl.LOCK_UN)  # between two rows it is free
    os.close(other)
    assert found is not None
    assert [row.exclusive for row in found.rows] == [True, False, True, True]
    assert "while another job was perhaps timed" in found.rows[1].text


def test_a_pass_is_repeated_after_it_is_warm() -> None:
    times = iter([100.0] * timing.WARM_UP_RUNS + [2.0] * 1000)
    found = timing.repeat(lambda: None, lambda call: next(times), seconds=1.0)
    assert found == [2.0] * timing.FEWEST_RUNS  # the last warm-up took 100 ms: ten runs in a second
    assert timing.summary([1.0, 2.0, 9.0])[0] == 2.0
    assert timing.by_clock(lambda: None) >= 0


def test_events_of_the_device_surround_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append("event")

        def synchronize(self) -> None:
            said.append("wait")

        def elapsed_time(self, _: "Event") -> float:
            return 1.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert timing.by_events(lambda: said.append("pass")) == 1.5
    assert said == ["event", "pass", "event", "wait"]


class NVMLError(Exception):
    pass


def nvml(**changes: Any) -> Any:
    module: Any = ModuleType("pynvml")
    usual = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetClockInfo": lambda _, kind: 1000 * kind,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _: 350_000,
        "nvmlDeviceGetTemperature": lambda *_: 41,
    }
    for name, value in {**usual, **changes}.items():
        setattr(module, name, value)
    return module


def refused(*_: Any) -> Any:
    raise NVMLError("Not Supported")


def test_clocks_and_limits_come_from_nvml_or_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py is not installed" in card_state("GPU-1").text
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    assert card_state("GPU-1").text == "1000 MHz, 2000 MHz of memory, 350 W at most, 41 °C"
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetEnforcedPowerLimit=refused))
    found = card_state("GPU-1")
    assert (found.sm_mhz, found.power_limit_watts, found.missing) == (1000, None, "power limit: Not Supported")
    for name in ("nvmlInit", "nvmlDeviceGetHandleByUUID"):
        monkeypatch.setitem(sys.modules, "pynvml", nvml(**{name: refused}))
        assert "Not Supported" in (card_state("GPU-1").missing or "")
