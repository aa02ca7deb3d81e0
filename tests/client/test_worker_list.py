"""The list of workers says what each of them is at, of one that rests until when and why, and what each computes on."""

import datetime as dt
from typing import Any

import pytest

from client.commands.service import workers
from client.types import Worker
from compression.schema.worker_device import DeviceRates, WorkerDevice
from tests.support.saying import lacks, says

UNTIL = dt.datetime(2126, 1, 1, 0, 10, tzinfo=dt.UTC)
CARD = WorkerDevice(
    kind="cuda",
    name="NVIDIA L4",
    memory_bytes=24_000_000_000,
    capability="8.9",
    driver="580.65",
    rates=DeviceRates(float32=30e12, bfloat16=1.2e14, bytes=3e11),
)


class Fleet:
    def __init__(self, **facts: Any) -> None:
        self.one = Worker(id="wkr_one", kind="jobs", **facts)

    def workers(self) -> list[Worker]:
        return [self.one]


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"alive": True}, "alive"),
        ({"alive": True, "drain": True, "rests_until": UNTIL}, "draining"),
        ({"rests_until": UNTIL}, "lost"),
        ({"alive": True, "rests_until": UNTIL}, "rests until 00:10:00 UTC"),
        ({"alive": True, "rests_until": UNTIL, "rest_reason": "disk full"}, "rests until 00:10:00 UTC: disk full"),
    ],
)
def test_each_worker_has_its_state(facts: dict[str, Any], state: str, capsys: pytest.CaptureFixture[str]) -> None:
    workers(Fleet(**facts))  # type: ignore[arg-type]  # of the client it asks for its workers alone
    assert f" {state} " in " ".join(capsys.readouterr().out.split())


def machine(device: WorkerDevice, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed of a worker with this device, in one line."""
    facts = {"devices": [device.name], "device": device.model_dump(mode="json"), "cores": 16, "memory_bytes": 64 << 30}
    workers(Fleet(alive=True, facts=facts))  # type: ignore[arg-type]  # as above
    return " ".join(capsys.readouterr().out.split())


def test_a_worker_with_a_card_shows_its_memory_and_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    shown = machine(CARD, capsys)
    says(shown, "NVIDIA L4, 16 cores, 68.72 GB; 24.0 GB; compute capability 8.9; driver 580.65;")
    says(shown, "tera-operations/s: float32 30, bfloat16 120; copies 300 GB/s")
    lacks(shown, "LOST")


def test_a_worker_whose_card_is_lost_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    lost = CARD.model_copy(update={"lost": "device_lost: the card has fallen off the bus"})
    says(machine(lost, capsys), "NVIDIA L4, 16 cores", "copies 300 GB/s; LOST: device_lost: the card has fallen off the bus")
