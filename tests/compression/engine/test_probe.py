"""A probe of the device that is here: which products come out right, how fast, and what it says where there is no card."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch

from compression.engine.commands import probe
from compression.schema.errors import DeviceLost
from compression.schema.worker_device import ProbeSpec, WorkerDevice
from compression.system.claimed_device import check_claimed_device

CPU = torch.device("cpu")
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def test_it_describes_this_processor_and_tries_its_formats() -> None:
    found = probe.probe(ProbeSpec(kind="cpu", measure=False))
    assert (found.kind, found.rates, found.capability, found.lost) == ("cpu", None, None, None)
    assert "float32" in found.dtypes
    assert found.memory_bytes > 1 << 28


def test_a_format_whose_products_are_wrong_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.multiplies(CPU, torch.bfloat16)
    monkeypatch.setattr(probe, "CLOSE", 1e-7)  # what float32 reaches at best, and 8 bits of mantissa never
    assert not probe.multiplies(CPU, torch.bfloat16)
    assert not probe.multiplies(CPU, torch.int8)


def test_rates_are_of_the_formats_that_work_and_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LONG_ENOUGH", 0.0)  # the smallest product does
    monkeypatch.setitem(probe.COPIED_BYTES, "cpu", 1 << 20)
    found = probe.measure_rates(CPU, ("float32",), 0.0)
    assert found.float32 > 1e6
    assert found.bytes > 1e6
    assert (found.bfloat16, found.int8, found.tf32) == (None, None, None)


def test_it_prints_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"kind": "cpu", "measure": False}))
    assert probe.main(spec) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert WorkerDevice.model_validate_json(line).kind == "cpu"


@no_card
def test_without_a_card_it_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"kind": "cuda"}))
    assert probe.main(spec) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "CUDA" in said.err or "NVIDIA" in said.err


def test_a_card_is_described_by_what_cuda_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(name="NVIDIA A100", total_memory=80 << 30, major=8, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: told)
    found = probe._card()
    assert (found.kind, found.name, found.memory_bytes, found.capability) == ("cuda", "NVIDIA A100", 80 << 30, "8.0")
    has_provider = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert {"transformers", "timm"} < set(found.scores)
    assert ("onnx" in found.scores, "openvino-f16" in found.scores) == (has_provider, False)


@no_card
def test_a_job_that_was_claimed_for_a_card_does_not_run_without_one() -> None:
    check_claimed_device(None)
    check_claimed_device("cpu")
    with pytest.raises(DeviceLost, match="claimed for a GPU"):
        check_claimed_device("cuda")


@pytest.mark.parametrize(("there", "is_lost"), [(1, True), (2, False), (4, False)])
def test_a_job_of_several_cards_allocates_on_the_first_alone(
    there: int, is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the others a context of the first process would take memory that the processes there need."""
    asked = list[str]()
    monkeypatch.setattr(torch, "zeros", lambda *_, device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(DeviceLost, match="claimed for 2 GPUs, and torch finds 1") if is_lost else nullcontext():
        check_claimed_device("cuda", 2)
    assert asked == ["cuda:0"]
