"""The bench of widths, of places in files and of joined operators: small records, made once."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bench.alignment import __main__ as bench, storage
from bench.alignment.layers import LAYERS, opened

QUICK = ["--turns", "3", "--widths", "9"]


@pytest.mark.parametrize(("layer", "runtime", "form"), [
    ("linear", "onnx", "dynamic-int8"), ("linear", "onnx", "static-int8"), ("conv", "openvino", "static-int8"),
])  # fmt: skip
def test_a_layer_of_integers_answers_as_in_floating_point(layer: str, runtime: str, form: str, tmp_path: Path) -> None:
    answers = []
    for each in ("float32", form):
        (tmp_path / each).mkdir()
        torch.manual_seed(0)
        feeds = LAYERS[layer][0](9, each, tmp_path / each)
        answers += opened(runtime, tmp_path / each, feeds, threads=1)()
    assert answers[0].shape == answers[1].shape
    distance = np.sqrt(np.square(answers[1] - answers[0]).mean() / np.square(answers[0]).mean())
    assert 0 < distance < 0.1


def test_records_are_made_once_and_hold_the_widths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--parts", "widths", "--layers", "linear", "--records", str(tmp_path), *QUICK]
    bench.main(asked)
    names = {path.stem for path in tmp_path.iterdir()}
    forms = {"onnx-float32", "onnx-dynamic-int8", "onnx-static-int8", "openvino-float32", "openvino-static-int8"}
    assert names == {f"linear-{form}-9" for form in forms}
    record = json.loads((tmp_path / "linear-onnx-float32-9.json").read_text())
    assert record["ms"].keys() == {"9", "16", "32", "64"}
    assert all(low <= middle <= high for low, middle, high in record["against"].values())
    printed = capsys.readouterr().out
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    bench.main(asked)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    bench.main([*asked, "--table-only"])
    assert capsys.readouterr().out == 2 * printed
    other = json.dumps(record | {"machine": {"processor": "another"}})
    (tmp_path / "linear-onnx-float32-9.json").write_text(other)
    bench.main([*asked, "--table-only"])
    assert "linear-onnx-float32-9" not in capsys.readouterr().out


def test_data_begin_where_they_are_asked_to_and_answers_do_not_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ROWS", 200)
    answers = []
    for name, offset in storage.PLACES.items():
        (tmp_path / name).mkdir()
        storage.write(offset, tmp_path / name)
        tensors = onnx.load(tmp_path / name / "model.onnx", load_external_data=False).graph.initializer
        places = [int(one.value) for tensor in tensors for one in tensor.external_data if one.key == "offset"]
        assert [place % storage.PAGE for place in places] == [offset, offset]
        answers += [storage.opened(tmp_path / name, packs=packs)()[0] for packs in (True, False)]
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-4, atol=1e-4)
