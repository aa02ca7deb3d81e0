"""The table of peak memory: what is too large for the machine is told as not measured, with the reason, and not tried."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from bench import memory

FILE = 1 << 20


def pretend(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Stand in for the processes: a checkpoint of one mebibyte, and 100 MiB for the libraries, 10 more for each way."""
    asked: list[tuple[str, str]] = []

    def child(what: str, name: str, place: Path) -> int:
        asked.append((what, name))
        if what == "make":
            (place / "model").mkdir()
            (place / "model" / "model.safetensors").write_bytes(bytes(FILE))
        return (100 + 10 * memory.WAYS.index(name) if what == "measure" else 0) << 20

    monkeypatch.setattr(memory, "child", child)
    return asked


def test_a_row_tells_the_peak_and_what_of_it_is_the_checkpoint_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch)
    rows = memory.lines("tiny", tmp_path, room=1 << 30)
    assert [name for what, name in asked if what == "measure"] == list(memory.WAYS)
    assert "| quantize | 130 MiB | 30 MiB | 30.00 |" in rows[3]
    assert "| 1 MiB | libraries | 100 MiB | 0 MiB | 0.00 |" in rows[0]


def test_a_way_that_ends_badly_is_told_and_the_others_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    well = memory.child

    def child(what: str, name: str, place: Path) -> int:
        if name == "open":
            raise ChildProcessError("a trace\nmeasure open ended with -9: Killed")
        return well(what, name, place)

    monkeypatch.setattr(memory, "child", child)
    rows = memory.lines("tiny", tmp_path, room=1 << 30)
    assert "not_measured: measure open ended with -9: Killed" in rows[1]
    assert "| quantize | 130 MiB | 30 MiB |" in rows[3]


def test_what_is_too_large_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch)
    rows = memory.lines("tiny", tmp_path, room=2 * FILE)
    assert ["not_measured" in row for row in rows] == [False, False, True, False, False]
    assert ("measure", "open in float32") not in asked
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    (row,) = memory.lines("llama-3-8b", tmp_path, room=1 << 40)
    assert "not_measured: its files take" in row


def test_checkpoints_have_the_shape_that_they_are_named_for(tmp_path: Path) -> None:
    memory.make("tiny", tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        elements = sum(torch.tensor(file.get_slice(name).get_shape()).prod() for name in file.keys())  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert isinstance(model, LlamaForCausalLM)
    assert elements == sum(weight.numel() for weight in model.parameters()) == memory.parameters_of("tiny")
    assert memory.parameters_of("smollm2-135m") == 134_515_008
