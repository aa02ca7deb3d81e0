"""A network's artifact: its interface, its config, and that its answers are held against the simulation's on real images."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export import instruction_sets
from compression.export.onnx.exporter import EXPORTER, write_onnx
from compression.export.parity_check import verify
from compression.modalities.image.scoring.classes import ImageClassScorer
from compression.modalities.image.scoring.reader import ImageInputs
from compression.modalities.scoring.base import Row
from compression.models.adapters.network.module import NetworkForImageClassification
from compression.quantization import calibration, range_check
from compression.quantization.fake_quantize import (
    Simulation,
    input_ranges,
    insert_fake_quantization,
    ranged_inputs,
    simulation_of,
)
from compression.schema.errors import ExportMismatch
from compression.schema.recipe.quantize import Quantize
from tests.support.images import encoded, pixels as colors
from tests.support.network_files import pixels, simulated
from tests.support.network_graphs import NETWORKS, resnet
from tests.support.network_models import drawn_network
from tests.support.tiny_maps import maps

SCORER = ImageClassScorer("accuracy", 5, None)
SIDE = 8


def rows(place: Path, count: int = 12) -> list[Row]:
    found: list[Row] = []
    for number in range(count):
        path = place / f"{number}.png"
        path.write_bytes(encoded(colors(number % 2, number, SIDE)))
        found.append({"image": str(path), "index": None, "label": number % 2})
    return found


def artifact(model: NetworkForImageClassification, place: Path, *, int8: bool) -> Path:
    place.mkdir()
    write_onnx(model, place, int8=int8)
    size = {"height": SIDE, "width": SIDE}
    processor = {"do_resize": True, "size": size, "do_rescale": True, "do_normalize": True}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "image_processor_type": "ViTImageProcessor"}
    (place / "preprocessor_config.json").write_text(json.dumps(processor))
    return place


@pytest.mark.parametrize("scheme", [None, "static-int8", "dynamic-int8", "weight-only-int8"])
def test_an_artifact_is_held_against_the_engines_model_on_images(scheme: str | None, tmp_path: Path) -> None:
    model = drawn_network(resnet())
    model = model if scheme is None else simulated(model, scheme, 2 * pixels(model))
    folder, asked = artifact(model, tmp_path / "made", int8=scheme is not None), rows(tmp_path)
    found = verify(model, folder, kind="onnx", int8=scheme is not None, sample=asked, scorer=SCORER, pad_id=0)
    assert found.difference <= found.allowed.rms
    (read,) = found.interface.inputs
    assert (read.axes, read.shape) == (("batch", "channels", "height", "width"), (None, 3, SIDE, SIDE))
    assert (read.low, read.high) == (-2, 2)  # of pixels from 0 to 1, less 0.5, over 0.25
    assert [sizes["batch"] for sizes in found.interface.tested] == [1, len(asked), 1]


@pytest.mark.parametrize("lost", ["linear_{}.bias", "batch_norm_1.bias"])
def test_a_lost_bias_is_noticed_in_int8(lost: str, tmp_path: Path) -> None:
    model = drawn_network(graph := resnet())
    model = simulated(model, "static-int8", 2 * pixels(model))
    folder, asked = artifact(model, tmp_path / "made", int8=True), rows(tmp_path)
    with torch.no_grad():
        model.get_parameter(lost.format(len(graph.nodes) - 1)).zero_()
    with pytest.raises(ExportMismatch, match="logits differ"):
        verify(model, folder, kind="onnx", int8=True, sample=asked, scorer=SCORER, pad_id=0)


def test_the_interface_is_that_of_the_model(tmp_path: Path) -> None:
    model = drawn_network(resnet())
    EXPORTER.check_interface(OnnxRunner(write_onnx(model, tmp_path, int8=False), threads=1), model)
    assert EXPORTER.hinders(model) is None
    assert {"graph", "source"}.isdisjoint(EXPORTER.config(model, tmp_path, 0))
    model.config.num_labels = 3
    with pytest.raises(ExportMismatch, match="outputs"):
        EXPORTER.check_interface(OnnxRunner(tmp_path / "model.onnx", threads=1), model)


@pytest.mark.skipif(instruction_sets.hindrance() is not None, reason=str(instruction_sets.hindrance()))
def test_answers_are_compared_under_another_instruction_set(tmp_path: Path) -> None:
    model = drawn_network(resnet())
    twin = simulated(model, "static-int8", images := pixels(model))
    write_onnx(twin, tmp_path, int8=True)
    simulation = simulation_of(twin)
    assert simulation is not None
    asked = [ImageInputs(images[at : at + 1].numpy()) for at in range(3)]
    found = EXPORTER.compare_processors(tmp_path, asked, simulation, 120)
    assert found is not None
    assert (found.rows, found.answers, found.equal) == (3, 3, True)


@pytest.mark.parametrize("observer", ["min-max", "percentile", "mse"])
def test_ranges_are_calibrated_on_rows_and_found_in_the_file(observer: str, tmp_path: Path) -> None:
    model = drawn_network(NETWORKS["mobilenet_v2"]())
    settings = Quantize(scheme="static-int8", observer=observer, **({"percentile": 99.0} if observer == "percentile" else {}))
    calibration.calibrate(model, maps(40, 0), settings)
    found = input_ranges(model)
    assert set(found) == set(ranged_inputs(model, "static-int8"))
    assert all(low <= 0 < high for low, high in found.values())
    insert_fake_quantization(model, simulation=Simulation.of(settings))
    proto = onnx.load(write_onnx(model, tmp_path, int8=True))
    held = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    scales = {float(held[node.input[1]]) for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    assert scales >= {float(np.float32(module.grid()[0])) for module in (model.values["input"],)}


def test_the_check_of_ranges_names_values_of_a_network() -> None:
    model = drawn_network(resnet())
    given = maps(24, 0)
    given.pixels[0, 0, 0, 0] = 1000.0
    settings = Quantize(scheme="static-int8", observer="min-max")
    calibration.calibrate(model, given, settings)
    insert_fake_quantization(model, simulation=Simulation.of(settings))
    found = {one.layer: one for one in range_check.check_ranges(model, given)}
    assert set(found) == set(ranged_inputs(model, "static-int8"))
    assert found["values.input"].broken
    assert "values.input" in str(range_check.describe_broken(tuple(found.values())))
