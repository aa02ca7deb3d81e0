"""Graphs of single layers, and a table that is measured of a few of them: each once, and anew under other conditions."""

import datetime as dt
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.evaluation.runtimes.onnx import FILE, OnnxRunner
from compression.evaluation.runtimes.openvino import OpenVinoRunner
from compression.export.device_table import command, measuring
from compression.export.device_table.layers import OF_IMAGES, drawn_inputs, write
from compression.export.device_table.measuring import Timed, conditions, measured, onnx_run, openvino_run
from compression.export.device_table.plan import READS, Layer, quick_plan, whole_plan
from compression.schema.device_table import MOST_ROWS, VERSION, DeviceTable
from tests.conftest import ROOT
from tests.support.device_tables import made_table

FEW = [Layer("call", 1, 1, 1), Layer("linear", 16, 32, 4, 2), Layer("depthwise", 8, 8, 16), Layer("activation", 8, 8, 2)]


@pytest.mark.parametrize(("layer", "links", "answered"), [
    (Layer("linear", 16, 24, 5), 1, 5), (Layer("attention", 64, 2, 6, 2), 1, 3), (Layer("normalization", 16, 16, 3), 1, 2),
    (Layer("activation", 16, 16, 3), 1, 2), (Layer("call", 1, 1, 1), 1, 2), (Layer("depthwise", 16, 16, 25), 3, 4),
    (Layer("convolution", 16, 32, 25), 1, 4), (Layer("convolution", 16, 32, 25), 3, 4), (Layer("convolution", 8, 6, 25), 3, 2),
    (Layer("addition", 16, 16, 25), 1, 4), (Layer("addition", 16, 16, 25), 3, 4),
])  # fmt: skip
def test_runtimes_and_forms_answer_alike(layer: Layer, links: int, answered: int, tmp_path: Path) -> None:
    feeds = drawn_inputs(layer.operation, layer.inputs, layer.places, layer.batch)
    answers = []
    for form in layer.forms("onnxruntime"):
        folder = tmp_path / form
        folder.mkdir()
        side = round(layer.places**0.5) if layer.operation in OF_IMAGES else 0
        write(layer.operation, form, layer.inputs, layer.outputs, folder, side=side, links=links)
        answers += onnx_run(OnnxRunner(folder / FILE, threads=1), feeds)()
        if form in layer.forms("openvino"):
            answers += openvino_run(OpenVinoRunner(folder / FILE, threads=1), feeds)()
    assert len(answers) == answered
    for answer in answers:
        assert answer.shape == answers[0].shape
        distance = np.sqrt(np.square(answer - answers[0]).mean() / np.square(answers[0]).mean())
        assert distance < 0.1
    if layer.operation in ("linear", *OF_IMAGES):
        assert not np.array_equal(answers[0], answers[-1])  # integers are rounded


def test_a_layer_is_timed_once_and_a_table_of_other_conditions_counts_for_nothing() -> None:
    *_, first = measured(FEW[:2], 1, seconds=0.001)
    assert {row.layer for row in first.rows} == {one.key for one in FEW[:2]}
    assert {(row.runtime, row.form) for row in first.rows if row.operation == "linear"} == {
        (runtime, form) for runtime, forms in READS.items() for form in forms
    }
    assert first.conditions == conditions(1)
    *_, whole = measured(FEW, 1, first, seconds=0.001)
    assert whole.rows[: len(first.rows)] == first.rows
    assert {row.layer for row in whole.rows} == {one.key for one in FEW}
    again = list(measured(FEW, 1, whole, seconds=0.001))
    assert again == [whole]
    newer = whole.model_copy(update={"conditions": whole.conditions.model_copy(update={"runtimes": {"onnxruntime": "0"}})})
    *_, anew = measured(FEW[:1], 1, newer, seconds=0.001)
    assert {row.layer for row in anew.rows} == {FEW[0].key}


def test_a_layer_of_images_takes_what_more_of_them_add(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, rounds = Layer("convolution", 16, 16, 25), iter([9.0, 1.0, 2.0])
    took = {"ends": 20.0, "each": 7.0}

    def slower_in_some(runs: Mapping[Timed, Any], turns: int, clock: object) -> dict[Timed, tuple[float, float, float]]:
        noise = next(rounds)
        times = {key: noise * (took["ends"] + key[2] * took["each"]) for key in runs}
        return {key: (time, time, time) for key, time in times.items()}

    monkeypatch.setattr(measuring, "_round", slower_in_some)
    rows = measuring.timed([layer], conditions(1), 0.001)
    assert {row.microseconds for row in rows} == {7.0}  # of the fastest round
    rounds, took["each"] = iter([1.0] * 3), -1.0  # as noise may say
    assert {row.microseconds for row in measuring.timed([layer], conditions(1), 0.001)} == {round(0.05 * 19, 3)}


def test_a_file_of_another_version_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(made_table().model_dump_json())
    assert command.read_table(path) == made_table()
    path.write_text(json.dumps(made_table().model_dump(mode="json") | {"version": VERSION - 1}))
    assert command.read_table(path) is None


def test_the_command_keeps_what_its_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "quick_plan", lambda: FEW)
    out = tmp_path / "table.json"
    out.write_text("{")  # of a run that was killed while it wrote
    table = command.run(out, 1, quick=True)
    assert DeviceTable.model_validate_json(out.read_bytes()) == table
    printed = "\n".join(command.lines(table))
    assert "| linear | 16 → 32 | 4 | 2 | " in printed
    assert "4 of 4 layers" in capsys.readouterr().err
    before = out.read_bytes()
    assert command.run(out, 1, quick=True) == table
    assert out.read_bytes() == before


def test_plans_have_each_layer_once_and_stay_small() -> None:
    for plan in (whole_plan(), quick_plan()):
        assert len({layer.key for layer in plan}) == len(plan)
        assert sum(len(layer.forms(runtime)) for layer in plan for runtime in READS) < MOST_ROWS
    assert {layer.operation for layer in whole_plan()} == {layer.operation for layer in quick_plan()}
    told = (ROOT / "docs" / "device-table.md").read_text(encoding="utf-8")
    assert re.findall(r"# (\d+) layers", told) == [str(len(whole_plan()))]


def test_conditions_are_told_apart() -> None:
    here = conditions(1)
    others = ({"threads": 2}, {"processor": "x"}, {"instructions": "x"}, {"runtimes": here.runtimes | {"openvino": "0"}})
    digests = {here.digest, *(here.model_copy(update=one).digest for one in others)}
    assert len(digests) == 5
    assert DeviceTable(conditions=here, measured_at=dt.datetime.now(dt.UTC), rows=()).conditions.digest == here.digest
