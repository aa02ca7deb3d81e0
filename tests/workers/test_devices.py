"""A worker computes on the device that it is told, and its engines see no other one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.core.settings import Settings
from app.store import broker
from compression.schema.worker_device import WorkerDevice
from tests.conftest import ROOT
from tests.support.nvidia import UUIDS, install
from workers import card_locks, device_probe, devices, seccomp
from workers.device_probe import choose_device, count_devices, find_fault, run_probe, wake_up_target
from workers.devices import CPU, Device, DeviceAbsent, find_card, find_cards
from workers.engine import child_environment
from workers.sandbox import Sandbox, bubblewrap_command

CARD = WorkerDevice(kind="cuda", name="NVIDIA A100", memory_bytes=80 << 30)


@pytest.fixture(autouse=True)
def forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LATHE_HOME", str(tmp_path / "home"))
    choose_device.cache_clear()
    yield
    card_locks.free_cards()


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with two cards, by its driver's files."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    root = install(tmp_path / "host")
    monkeypatch.setattr(devices.list_cards, "__defaults__", (root, None))
    for function in (find_card, find_cards):
        monkeypatch.setattr(function, "__defaults__", (root, None))
    return root


def probed(monkeypatch: pytest.MonkeyPatch, answer: WorkerDevice | DeviceAbsent) -> list[Device]:
    tried: list[Device] = []

    def probe(device: Device, settings: Settings, *, measure: bool = True) -> WorkerDevice:
        tried.append(device)
        if isinstance(answer, DeviceAbsent):
            raise answer
        return answer

    monkeypatch.setattr(device_probe, "run_probe", probe)
    return tried


def test_a_card_is_named_by_its_uuid_and_brings_its_own_files(cards: Path) -> None:
    first, second = find_card(0), find_card(1)
    assert (first.visible, second.visible) == UUIDS
    assert {place.name for place in first.nodes} == {"nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"}
    assert {place.name for place in second.nodes} == {"nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"}
    assert find_card(0, cards, "1").visible == UUIDS[1]  # numbers are of what the worker itself may use


def test_a_card_without_a_uuid_is_the_machine_s_first_or_none(cards: Path) -> None:
    """A number is of what the worker may use, and number 0 to an unconfined engine is the machine's first card."""
    for place in cards.glob("proc/driver/nvidia/gpus/*/information"):
        told = place.read_text()
        for uuid in UUIDS:
            told = told.replace(uuid, "GPU-????????-????")
        place.write_text(told)
    assert find_card(0).visible == find_card(0, cards, "0").visible == "0"
    with pytest.raises(DeviceAbsent, match="UUID"):
        find_card(0, cards, "1")
    with pytest.raises(DeviceAbsent, match="UUID"):
        find_card(1)


def test_a_card_that_is_not_there_is_absent(cards: Path) -> None:
    with pytest.raises(DeviceAbsent, match=r"cuda:9 is not there: this machine has 2 cards"):
        find_card(9)
    with pytest.raises(DeviceAbsent, match=r"under CUDA_VISIBLE_DEVICES=1 \(NVIDIA L4\)"):
        find_card(1, cards, "1")


def test_several_cards_are_one_device_of_which_each_is_probed(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = device_probe.run_probe
    device = find_cards((1, 0))
    assert device.visible == f"{UUIDS[1]},{UUIDS[0]}"
    assert {place.name for place in device.nodes} == {"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"}
    small = CARD.model_copy(update={"name": "NVIDIA L4", "memory_bytes": 24 << 30})
    tried: list[str] = []

    def answer(verb: str, spec: Path, folder: Path, settings: Settings, seconds: float, device: Device) -> bytes:
        tried.append(device.visible)
        assert json.loads(spec.read_text())["measure"] == (len(tried) == 1)
        return (CARD if device.visible == UUIDS[1] else small).model_dump_json().encode()

    monkeypatch.setattr(device_probe.engine, "run_query", answer)
    found = whole(device, Settings())
    assert (found.cards, found.memory_bytes, found.name) == (2, 24 << 30, "NVIDIA A100, NVIDIA L4")
    assert tried == [UUIDS[1], UUIDS[0]]
    for numbers, said in (((0, 9), "cuda:9 is not there"), ((1, 1), "named twice")):
        with pytest.raises(DeviceAbsent, match=said):
            find_cards(numbers)


def test_a_worker_trains_on_all_its_cards_or_on_its_cores_if_it_gives_them_a_network(
    cards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed(monkeypatch, CARD.model_copy(update={"cards": 2}))
    monkeypatch.setattr(device_probe, "usable_cores", lambda: 6)
    for level, with_cards, without in (("bubblewrap", 2, 6), ("none", 2, 6), ("landlock+seccomp", 1, 1)):
        monkeypatch.setattr(device_probe, "get_sandbox", lambda _, device, level=level: Sandbox(level, device=device))
        assert count_devices(Settings(device="cuda:0,1")) == with_cards
        assert count_devices(Settings(device="cpu")) == without


def test_auto_is_the_first_card_if_it_works_and_else_the_cpu(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probed(monkeypatch, CARD)
    device, facts = choose_device(Settings())
    assert (device.visible, facts) == (UUIDS[0], CARD)
    assert choose_device(Settings(device="auto:1"))[0].visible == UUIDS[1]
    assert choose_device(Settings())[0] == device
    assert len(tried) == 2  # once per process
    choose_device.cache_clear()
    probed(monkeypatch, DeviceAbsent("the driver is too old"))
    assert choose_device(Settings())[0] == CPU
    with pytest.raises(DeviceAbsent, match="too old"):
        choose_device(Settings(device="cuda:0"))
    assert choose_device(Settings(device="cpu"))[0] == CPU


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """Make what this process has locked another worker's; returns the open files that hold it."""
    held: list[int] = []

    def become_theirs() -> list[int]:
        while card_locks._held:
            held.append(card_locks._held.popitem()[1])
        choose_device.cache_clear()
        return held

    monkeypatch.setattr(card_locks, "PATIENCE", 0.0)
    yield become_theirs
    for handle in held:
        os.close(handle)


def test_no_two_workers_compute_on_one_card(
    cards: Path, others: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = probed(monkeypatch, CARD)
    chosen = []
    for _ in range(3):
        chosen.append(choose_device(Settings())[0].visible)
        theirs = others()
    assert chosen == [*UUIDS, ""]
    assert len(tried) == 2
    in_use = rf"cuda:1 is in use by another worker \(process {os.getpid()}\)"
    with pytest.raises(DeviceAbsent, match=in_use):
        choose_device(Settings(device="cuda:1"))
    monkeypatch.setattr(card_locks, "PATIENCE", 60.0)
    monkeypatch.setattr(card_locks.time, "sleep", lambda _: os.close(theirs.pop()))  # one that is replaced has ended
    assert choose_device(Settings(device="cuda:0,1"))[0].visible == ",".join(UUIDS)
    assert theirs == []


def test_a_card_that_does_not_work_is_nobody_s(
    cards: Path, others: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    probed(monkeypatch, DeviceAbsent("the driver is too old"))
    assert choose_device(Settings())[0] == CPU
    others()
    probed(monkeypatch, CARD)
    assert choose_device(Settings(device="cuda:0"))[0].visible == UUIDS[0]


def test_engines_do_not_keep_their_worker_s_card(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, CARD)
    choose_device(Settings())
    (handle,) = card_locks._held.values()
    assert not os.get_inheritable(handle)


def test_without_cards_nothing_is_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.list_cards, "__defaults__", (tmp_path, None))
    tried = probed(monkeypatch, CARD)
    device, facts = choose_device(Settings())
    assert (device, facts.kind, facts.rates, tried) == (CPU, "cpu", None, [])
    assert facts.memory_bytes > 1 << 28
    assert find_fault(Settings()) is None


def test_workers_of_cards_have_their_own_wake_ups(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, CARD)
    assert wake_up_target(broker.JOBS, Settings()) == broker.GPU_JOBS
    assert wake_up_target(broker.CHECKS, Settings()) == broker.CHECKS
    assert wake_up_target(broker.JOBS, Settings(device="cpu")) == broker.JOBS


@pytest.mark.parametrize("name", ["cuda:0", "cuda", "cpu", "auto", "auto:3", "cuda:0,1", "cuda:4,5,6,7"])
def test_devices_that_a_setting_may_name(name: str) -> None:
    assert Settings(device=name).device == name


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "0", "cuda:0,", "cuda:,1", "auto:0,1", "cuda:0,x"])
def test_devices_that_it_may_not(name: str) -> None:
    with pytest.raises(ValidationError):
        Settings(device=name)


def test_an_engine_sees_the_worker_s_card_and_a_cpu_s_engine_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert child_environment(tmp_path, 1.0)["CUDA_VISIBLE_DEVICES"] == ""
    told = child_environment(tmp_path, 1.0, Device("cuda", UUIDS[1]))
    assert (told["CUDA_VISIBLE_DEVICES"], told["CUDA_DEVICE_ORDER"]) == (UUIDS[1], "PCI_BUS_ID")


def test_the_confinement_lets_a_card_s_files_through_and_no_others(cards: Path, tmp_path: Path) -> None:
    card = find_card(0)
    nodes = [str(place) for place in card.nodes]
    line = list(bubblewrap_command([], tmp_path, card.nodes))
    assert [line[place + 1 : place + 3] for place, word in enumerate(line) if word == "--dev-bind"] == [[n, n] for n in nodes]
    assert "--dev-bind" not in list(bubblewrap_command([], tmp_path))
    for level in ("bubblewrap", "landlock+seccomp"):
        told = " ".join(Sandbox(level, device=card).wrap(["true"], tmp_path))
        assert all(node in told for node in nodes)
        assert "nvidia0" not in told
        assert "nvidia-modeset" not in told
        assert '"/sys"' in told
        plain = " ".join(Sandbox(level).wrap(["true"], tmp_path))
        assert "nvidia" not in plain.replace("site-packages/nvidia", "")
        assert '"/sys"' not in plain


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_probe_runs_inside_the_confinement_and_describes_the_cpu(settings: Settings) -> None:
    found = run_probe(CPU, settings, measure=False)
    assert (found.kind, found.rates) == ("cpu", None)
    assert "float32" in found.dtypes
    assert list(settings.scratch.glob("probe-*")) == []


def start(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "LATHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "workers", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_worker_refuses_to_start_without_its_device(tmp_path: Path) -> None:
    done = start(tmp_path, "jobs", "--device", "cuda:9")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("device_absent: cuda:9 is not there: this machine has ")
    assert "--device cpu" in line


def test_a_device_of_no_form_is_refused(tmp_path: Path) -> None:
    done = start(tmp_path, "jobs", "--device", "gpu0")
    assert done.returncode == 2
    assert "--device gpu0: it is cpu, cuda:N, cuda:N,N, auto or auto:N" in done.stderr


def test_processes_beside_cards_have_unix_sockets_and_shared_memory_and_others_have_not(cards: Path, tmp_path: Path) -> None:
    both, one = find_cards((0, 1)), find_card(0)

    def told(device: Device, *, talks: bool) -> dict[str, Any]:
        return json.loads(Sandbox("bubblewrap", device=device, talks=talks).wrap(["true"], tmp_path)[6])

    assert told(both, talks=True)["families"] == [*seccomp.LOOPBACK, seccomp.UNIX]
    assert "/dev/shm" in told(both, talks=True)["bubblewrap"]
    for device, talks, families in ((one, False, []), (CPU, True, [*seccomp.LOOPBACK]), (CPU, False, [])):
        plan = told(device, talks=talks)
        assert plan["families"] == families
        assert "/dev/shm" not in plan["bubblewrap"]
