"""Reads a GPU's clocks and limits through NVML, if its Python package is installed (the extra `cuda`). Torch-free."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from compression.schema.extras import pip_install
from compression.schema.report.card_rows import CardState

PACKAGE = "pynvml"
ABSENT = f"nvidia-ml-py is not installed on the worker: {pip_install('cuda')}."


def card_state(uuid: str) -> CardState:
    """Return the state of a GPU now. uuid: as CUDA and NVML name it. What cannot be read is null, with the reason."""
    try:
        nvml: Any = import_module(PACKAGE)
    except ImportError:
        return CardState(missing=ABSENT)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as problem:
        return CardState(missing=f"NVML does not start: {problem}")
    try:
        return _read(nvml, uuid)
    finally:
        nvml.nvmlShutdown()


def _read(nvml: Any, uuid: str) -> CardState:
    reasons: list[str] = []

    def ask(name: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except nvml.NVMLError as problem:
            reasons.append(f"{name}: {problem}")
            return None

    card = ask("the GPU", lambda: nvml.nvmlDeviceGetHandleByUUID(uuid))
    if card is None:
        return CardState(missing="; ".join(reasons))
    limit = ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(card))  # in milliwatts
    return CardState(
        sm_mhz=ask("clock", lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM)),
        memory_mhz=ask("memory's clock", lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_MEM)),
        power_limit_watts=None if limit is None else limit / 1000,
        temperature_celsius=ask("temperature", lambda: nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU)),
        missing="; ".join(reasons) or None,
    )
