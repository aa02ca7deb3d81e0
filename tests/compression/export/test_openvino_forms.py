"""OpenVINO's files answer as the engine does at any length, with the integers that it simulates, in layers of integers."""

import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForQuestionAnswering, BertForSequenceClassification, PreTrainedModel

from compression.evaluation.runtimes.openvino import FILE, OpenVinoRunner, imported, open_folder
from compression.export.onnx.trace import outputs_of
from compression.export.openvino import exporter as openvino_exporter
from compression.export.openvino.exporter import F16, INT8, OpenVinoExporter
from compression.modalities.base import Examples
from compression.modalities.image.modality import IMAGE
from compression.modalities.image.preprocessing import ImagePreprocessing, normalized
from compression.modalities.image.scoring.reader import ImageInputs
from compression.modalities.scoring.base import Floats as Logits, Inputs
from compression.modalities.text.inputs import Batch
from compression.quantization.calibration import Calibrate, calibrate, collect_inputs
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.fake_quantize import (
    Simulation,
    input_ranges,
    insert_fake_quantization,
    quantizable,
    ranged_inputs,
    set_input_ranges,
    simulation_of,
)
from compression.quantization.observers import Spread
from compression.quantization.static_int8 import static_weights
from compression.schema.errors import ExportMismatch
from compression.schema.manifest import Manifest
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate
from compression.schema.schemes import SCHEMES, Scheme
from tests.support import decoder_models
from tests.support.network_files import pixels, simulated
from tests.support.network_graphs import mobilenet_v2, resnet, vit
from tests.support.network_models import drawn_network
from tests.support.openvino_files import openvino_constants
from tests.support.shipments import shipped
from tests.support.tiny_bert import WORDS, encoded, sentences, tiny_config

SHAPES = [(1, 1), (3, 31), (5, 8)]
NORMALIZED = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NEAR, HALF_NEAR = 1e-5, 2e-3
"""Largest distance of logits, relative to the largest: from the order of sums, and from weights in float16."""


@cache
def bert(scheme: Scheme | None, head: Any = BertForSequenceClassification, *, portable: bool = True) -> PreTrainedModel:
    torch.manual_seed(1)
    model = head(tiny_config(num_labels=2)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    if scheme is not None:
        linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        ranges = dict.fromkeys(linear, (-3.0, 4.0)) if SCHEMES[scheme].calibrated else {}
        insert_fake_quantization(model, simulation=Simulation(scheme=scheme, portable=portable, ranges=ranges))
    return model


def texts(rows: int, length: int) -> Batch:
    ids = np.random.default_rng(length).integers(5, len(WORDS), (rows, length))
    mask = np.ones_like(ids)
    mask[-1, 1 + length // 2 :] = 0
    return Batch(ids * mask, mask, 0 * ids)


@torch.no_grad()
def of_engine(model: nn.Module, batch: Inputs) -> Logits:
    out = model(**{name: torch.from_numpy(value) for name, value in batch.arrays.items() if name != "images"})
    found = [out[name].numpy() for name in outputs_of(model)]
    return found[0] if len(found) == 1 else np.stack(found, axis=-1)


def written(form: OpenVinoExporter, model: PreTrainedModel, folder: Path) -> OpenVinoRunner:
    form.write(model, folder, "int8" if form.int8 else "float16")
    assert sorted(path.name for path in folder.iterdir()) == ["openvino_model.bin", FILE]
    assert not any(offset % 64 for offset, _ in openvino_constants(folder / FILE))
    runner = open_folder(folder, threads=1)
    form.check_interface(runner, model)
    return runner


def executed(runner: OpenVinoRunner, *layers: str) -> Counter[str]:
    """Count the layers of some kinds that the processor executes, by the precision of what they read."""
    about = [one.get_rt_info() for one in runner.compiled.get_runtime_model().get_ordered_ops()]
    return Counter(each["runtimePrecision"].astype(str) for each in about if each["layerType"].astype(str) in layers)


def assert_near(found: Logits, wanted: Logits, near: float) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= near * np.abs(wanted).max()


@pytest.mark.parametrize("head", [BertForSequenceClassification, BertForQuestionAnswering])
@pytest.mark.parametrize(("form", "near"), [(INT8, NEAR), (F16, HALF_NEAR)])
def test_an_encoder_answers_as_the_engine_at_any_length(form: OpenVinoExporter, near: float, head: Any, tmp_path: Path) -> None:
    model = bert("static-int8" if form.int8 else None, head)
    assert form.hinders(model) is None
    runner = written(form, model, tmp_path)
    for shape in SHAPES:
        assert_near(runner.logits(texts(*shape)), of_engine(model, texts(*shape)), near)
    layers = sum(isinstance(layer, nn.Linear) for layer in model.modules())
    assert executed(runner, "FullyConnected") == {"u8" if form.int8 else "f16": layers}


def test_the_integers_are_those_of_training(tmp_path: Path) -> None:
    model = bert("static-int8")
    INT8.write(model, tmp_path, "int8")
    constants = {one.get_friendly_name(): one for one in imported().Core().read_model(tmp_path / FILE).get_ordered_ops()}
    for name, layer in quantizable(model):
        if isinstance(layer, nn.Linear):
            whole, scales, _ = static_weights(layer.weight, layer.bias, layer.grid()[0], layer.levels)
            assert whole.abs().max() == 63
            np.testing.assert_array_equal(constants[f"{name}.weight_int8"].data, whole.numpy().T)
            np.testing.assert_array_equal(constants[f"{name}.weight_scale"].data.ravel(), scales.numpy())


def test_weights_take_two_bytes_each_and_are_those_before_rounding(tmp_path: Path) -> None:
    trained = bert("static-int8")
    F16.write(trained, tmp_path, "float16")
    stored = (tmp_path / "openvino_model.bin").stat().st_size
    assert stored < 2.3 * sum(parameter.numel() for parameter in trained.parameters())
    assert_near(open_folder(tmp_path, threads=1).logits(texts(3, 9)), of_engine(bert(None), texts(3, 9)), HALF_NEAR)
    assert F16.precision_of("static-int8", trained) == F16.precision_of(None, trained) == "float16"
    assert INT8.precision_of("static-int8", trained) == "int8"


def calibrated_on(rows: Examples) -> Calibrate:
    return lambda model, settings: calibrate(model, rows, settings)


@pytest.mark.parametrize("portable", [True, False])
def test_a_model_without_ranges_gets_a_twin_with_its_own_integers_and_calibrated_ranges(
    portable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_exporter, "has_vnni", lambda: True)  # the integers are looked at: nothing is computed here
    trained, rows = bert("dynamic-int8", portable=portable), encoded(sentences(48, 1))
    before = simulation_of(trained)
    twin = INT8.prepared(trained, calibrated_on(rows))
    assert simulation_of(trained) == before
    assert simulation_of(twin).scheme == "static-int8"
    INT8.write(twin, tmp_path, "int8")
    constants = {one.get_friendly_name(): one for one in imported().Core().read_model(tmp_path / FILE).get_ordered_ops()}
    for name, layer in trained.named_modules():
        if isinstance(layer, nn.Linear):
            whole, scales = integer_rows(layer.weight, layer.levels)
            np.testing.assert_array_equal(constants[f"{name}.weight_int8"].data, whole.numpy().T)
            np.testing.assert_array_equal(constants[f"{name}.weight_scale"].data.ravel(), scales.numpy()[:, 0])
    spreads = {name: Spread() for name in ranged_inputs(trained, "static-int8")}
    collect_inputs(trained, ranged_inputs(trained, "static-int8"), rows, lambda name, x: spreads[name].add(x))
    for name, (low, high) in input_ranges(twin).items():
        assert spreads[name].low <= low < high <= spreads[name].high
        assert high - low > 0.5 * (spreads[name].high - spreads[name].low)


def test_a_network_s_linear_layers_get_ranges_and_its_convolutions_keep_theirs(tmp_path: Path) -> None:
    model = drawn_network(resnet())
    trained, images = simulated(model, "dynamic-int8", pixels(model)), 2 * pixels(model)
    assert 0 < len(simulation_of(trained).ranges) < len(ranged_inputs(trained, "static-int8"))

    def on_images(ranged: nn.Module, settings: Quantize) -> None:
        set_input_ranges(ranged, simulation_of(simulated(model, settings.scheme, images)).ranges)

    twin = INT8.prepared(trained, on_images)
    found = simulation_of(twin).ranges
    assert {name: found[name] for name in simulation_of(trained).ranges} == simulation_of(trained).ranges
    runner = written(INT8, twin, tmp_path)
    batch = ImageInputs(pixels(model).numpy())
    assert_near(runner.logits(batch), of_engine(twin, batch), 2e-2)
    assert set(executed(runner, "Convolution", "FullyConnected")) == {"u8"}


def test_a_file_s_bytes_do_not_depend_on_what_was_written_before(tmp_path: Path) -> None:
    made = []
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        INT8.write(bert("static-int8"), tmp_path / name, "int8")
        made.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert made[0] == made[1]


@pytest.mark.parametrize("graph", [resnet, mobilenet_v2, vit])
@pytest.mark.parametrize("symmetric", [None, False, True])
def test_a_network_answers_as_the_engine_of_normalized_and_of_raw_images(
    graph: Any, symmetric: bool | None, tmp_path: Path
) -> None:
    model, form = drawn_network(graph()), F16 if symmetric is None else INT8
    if symmetric is not None:
        model = simulated(model, "static-int8", 2 * pixels(model), symmetric=symmetric)
    assert form.hinders(model) is None
    near = HALF_NEAR if symmetric is None else 2e-2  # a value on the edge of two integers may fall either way
    batch = ImageInputs(pixels(model).numpy())
    runner = written(form, model, tmp_path)
    assert_near(runner.logits(batch), of_engine(model, batch), near)
    if symmetric is False:
        assert set(executed(runner, "Convolution", "FullyConnected")) == {"u8"}
    side = model.config.network.shape[-1]
    arithmetic: dict[str, Any] = NORMALIZED if form.int8 else {"channels": "bgr"}
    how = ImagePreprocessing.checked(size=(side, side), exact=(side, side), **arithmetic)
    how.write(tmp_path)
    raw = IMAGE.raw_input(tmp_path)
    assert form.take_raw_input(tmp_path, raw)
    assert not any(offset % 64 for offset, _ in openvino_constants(tmp_path / FILE))
    again = open_folder(tmp_path, threads=1)
    form.check_interface(again, model, tmp_path)
    with pytest.raises(ExportMismatch, match="inputs"):
        form.check_interface(again, model)
    images = np.random.default_rng(0).integers(0, 256, (6, side, side, 3), np.uint8)
    expected = of_engine(model, given := ImageInputs(normalized(images, how), images))
    assert_near(again.logits(given), expected, near)
    with pytest.raises(KeyError):
        form.take_raw_input(tmp_path, raw)


def test_a_model_without_such_a_form_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert INT8.hinders(bert(None)) == "The model simulates no integers."
    for scheme in ("weight-only-int8", "weight-only-int4"):
        assert scheme in str(INT8.hinders(bert(scheme)))
        assert F16.hinders(bert(scheme)) is None
    assert INT8.hinders(bert("dynamic-int8")) is None
    with pytest.raises(TypeError, match="calibrated ranges"):
        INT8.write(bert("dynamic-int8"), tmp_path, "int8")
    assert "cache" in str(F16.hinders(decoder_models.tiny("llama")))
    full = bert("static-int8", portable=False)
    monkeypatch.setattr(openvino_exporter, "has_vnni", lambda: True)
    assert INT8.hinders(full) is None
    monkeypatch.setattr(openvino_exporter, "has_vnni", lambda: False)
    assert "beyond ±63" in str(INT8.hinders(full))
    monkeypatch.setitem(sys.modules, "openvino", None)
    for form, model in ((INT8, bert("static-int8")), (F16, bert(None))):
        assert form.hinders(model) == "This machine lacks the package openvino."


def test_opening_a_file_loads_neither_torch_nor_what_reports_to_openvino_s_makers(tmp_path: Path) -> None:
    F16.write(drawn_network(resnet()), tmp_path, "float16")
    code = """
import sys
from pathlib import Path
from compression.evaluation.runtimes.openvino import open_folder
print(open_folder(Path(sys.argv[1]), threads=1).name)
print(*(name for name, one in sys.modules.items() if one and name.split(".")[0] in ("torch", "openvino_telemetry")))
"""
    said = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == "openvino"
    assert said.splitlines()[1] == ""


@pytest.mark.parametrize(
    ("kind", "scheme"), [("openvino-int8", "static-int8"), ("openvino-int8", "dynamic-int8"), ("openvino-f16", "static-int8")]
)
def test_an_artifact_is_verified_scored_and_opened_by_its_card(
    kind: str, scheme: Scheme, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": text, "label": int(label == "positive")} for text, label in sentences(20, 5)]
    form = {"kind": kind, "stage": "quantized", "precision": "int8" if kind == "openvino-int8" else "float16", "max_length": 16}
    about = {
        "task": "text-classification",
        "labels": ("negative", "positive"),
        "preprocessor": encoder,
        "evaluate": Evaluate(length=16),
    }
    about["calibrate"] = calibrated_on(encoded(sentences(32, 1)))
    made = shipped(bert(scheme), tmp_path, rows, **form, **about)
    assert made.artifact.trained_as_shipped is (kind == "openvino-int8" and scheme == "static-int8")
    assert made.score.rows == len(rows)
    assert made.artifact.opens_with.startswith(f"openvino.Core().compile_model('{FILE}', 'CPU') with tokenizers")
    linear = sum(isinstance(layer, nn.Linear) for layer in bert(None).modules())
    assert made.artifact.operators.after["FullyConnected"] == linear
    folder = tmp_path / "artifacts" / made.artifact.name
    assert made.size.bytes == sum(path.stat().st_size for path in folder.glob("openvino_model.*"))
    interface = Manifest.model_validate_json((folder / "manifest.json").read_bytes()).interface
    assert [(one.name, one.dtype, one.axes, one.shape) for one in interface.inputs] == [
        (name, "int64", ("batch", "sequence"), (None, None)) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert [(one.name, one.dtype, one.axes[0], one.shape) for one in interface.outputs] == [
        ("logits", "float32", "batch", (None, 2))
    ]
    card = (folder / "README.md").read_text()
    assert "INFERENCE_PRECISION_HINT" in card
    assert ("calibrated" in card) == (kind == "openvino-int8")
    assert ("after all training" in card) == (scheme == "dynamic-int8")
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(compile(card.split("```python\n")[1].split("```")[0], "card", "exec"), found)
    batch = Batch(*(np.array([getattr(row, name) for row in found["rows"]]) for name in ("ids", "attention_mask", "type_ids")))
    np.testing.assert_array_equal(found["logits"], open_folder(folder, threads=1).logits(batch))
