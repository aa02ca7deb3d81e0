"""The quantize stage on a network: ranges of values, training with integers, a cut after it, and the artifact's own answers."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compression.engine.stages.insert_quantization import settle_ranges
from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export.onnx.exporter import write_onnx
from compression.modalities.image.scoring.reader import ImageInputs
from compression.models.adapters.registry import adapter_of
from compression.quantization.fake_quantize import input_ranges, quantizable, ranged_inputs, simulation_of
from compression.quantization.static_int8 import affine
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.system.progress import run_silently
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.stage_runs import prune, quantize
from tests.support.tiny_maps import network_state, trained

TRAIN = Train(batch=16, precision="float32")


@pytest.fixture(scope="module")
def taught() -> Any:
    return trained(drawn_network(resnet((1, 1))))


def state_of(taught: Any, settings: Quantize, cut: Prune | None = None) -> Any:
    recipe = Recipe(prepare=Prepare(epochs=0), quantize=settings, prune=cut, distill=None, train=TRAIN)
    return network_state(copy.deepcopy(taught), recipe)


def answers_alike(state: Any, place: Path) -> bool:
    """Whether the artifact's answers to the rows of test are the model's."""
    pixels = state.rows["test"].pixels
    with torch.no_grad():
        expected = state.model.eval()(pixels).logits.numpy()
    found = OnnxRunner(write_onnx(state.model, place, int8=True), threads=1).logits(ImageInputs(pixels.numpy()))
    return (
        np.array_equal(found.argmax(1), expected.argmax(1)) and np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    )


@pytest.mark.parametrize("scheme", ["static-int8", "dynamic-int8"])
def test_a_network_is_calibrated_trained_with_integers_and_answers_as_its_file(
    taught: Any, scheme: str, tmp_path: Path
) -> None:
    qat = Qat(full=1, ramp=2, quantized=1, rate=1e-3)
    state = state_of(taught, Quantize(scheme=scheme, qat=qat, calibration_rows=32))
    run_silently(quantize(state))
    settle_ranges(state)
    found = simulation_of(state.model)
    assert found is not None
    assert (found.scheme, found.portable) == (scheme, True)
    assert set(found.ranges) == set(ranged_inputs(state.model, scheme))
    assert {one.layer for one in state.result.ranges} >= set(found.ranges)
    notes = " ".join(state.result.notes)
    assert "Sensitivity, least first" in notes
    assert ("Convolutions have calibrated ranges" in notes) == (scheme == "dynamic-int8")
    before, after = taught.state_dict(), state.model.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert answers_alike(state, tmp_path)


def test_symmetric_ranges_are_trained_with_and_found_in_the_file(taught: Any, tmp_path: Path) -> None:
    qat = Qat(full=1, ramp=1, quantized=1, rate=1e-3)
    state = state_of(taught, Quantize(scheme="static-int8", symmetric=True, qat=qat, calibration_rows=32))
    run_silently(quantize(state))
    settle_ranges(state)
    found = simulation_of(state.model)
    assert found is not None
    assert found.symmetric
    assert {affine(*ends)[1] for ends in found.ranges.values()} == {128}
    assert answers_alike(state, tmp_path)


def test_a_cut_network_is_calibrated_again(taught: Any, tmp_path: Path) -> None:
    state = state_of(
        taught,
        Quantize(scheme="static-int8", calibration_rows=32),
        Prune(axes=("channels", "hidden"), ratio=0.5, recovery=None),
    )
    run_silently(quantize(state))
    before, wide = input_ranges(state.model), adapter_of(state.model).parameters_of(state.model).total
    run_silently(prune(state))
    assert adapter_of(state.model).parameters_of(state.model).total < wide
    after = input_ranges(state.model)
    assert set(after) == set(ranged_inputs(state.model, "static-int8"))
    assert after != before
    assert len(dict(quantizable(state.model))) == len(dict(quantizable(taught)))
    assert answers_alike(state, tmp_path)
