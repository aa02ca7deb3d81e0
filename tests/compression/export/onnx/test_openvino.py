"""OpenVINO answers as ONNX Runtime does, or says that it cannot convert a file: never anything else, at any length."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from transformers import BertForSequenceClassification

from compression.evaluation.runtimes.onnx import has_vnni
from compression.evaluation.runtimes.openvino import imported
from compression.export.onnx import decoder
from compression.export.onnx.exporter import write_onnx
from compression.quantization import calibration
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.recipe.quantize import Quantize
from compression.schema.schemes import Scheme
from tests.support.decoder_models import VOCABULARY, tiny
from tests.support.tiny_bert import WORDS, encoded, sentences, tiny_config

openvino = imported()

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
"""Left alone, OpenVINO multiplies in bfloat16 where the processor has it."""
SHAPES = [(1, 1), (1, 16), (3, 31), (5, 8)]
STEPS = [(2, 9, 0), (1, 1, 5), (2, 4, 3)]
"""Rows, tokens, and tokens that are cached."""
Feeds = dict[str, npt.NDArray[Any]]


def encoder_file(scheme: Scheme, folder: Path, *, portable: bool = True) -> Path:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_config(num_labels=2)).eval()
    settings = Quantize(scheme=scheme, portable=portable)
    if scheme == "static-int8":
        calibration.calibrate(model, encoded(sentences(64, 1)), settings)
    insert_fake_quantization(model, simulation=Simulation.of(settings))
    return write_onnx(model, folder, int8=True)


def texts(rows: int, length: int) -> Feeds:
    ids = np.random.default_rng(length).integers(5, len(WORDS), (rows, length))
    mask = np.ones_like(ids)
    mask[-1, 1 + length // 2 :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": 0 * ids}


def steps(session: onnxruntime.InferenceSession, rows: int, length: int, past: int) -> Feeds:
    draw = np.random.default_rng(length)
    found: Feeds = {
        "input_ids": draw.integers(1, VOCABULARY, (rows, length)),
        "attention_mask": np.ones((rows, past + length), np.int64),
        "position_ids": np.tile(np.arange(past, past + length), (rows, 1)),
    }
    cached = [item for item in session.get_inputs() if item.name not in found]
    return found | {one.name: draw.normal(size=(rows, one.shape[1], past, one.shape[3])).astype(np.float32) for one in cached}


def opened(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def of_these_shapes(path: Path, feeds: Feeds) -> Any:
    model = openvino.convert_model(str(path), input=[(name, list(value.shape)) for name, value in feeds.items()])
    return openvino.Core().compile_model(model, "CPU", EXACT)


def assert_alike(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    """A value on the edge of two integers may fall either way; nonsense is as far off as the logits are large."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("portable", [True, False])
def test_an_encoder_of_free_shapes_is_refused_and_of_fixed_ones_answers_right(portable: bool, tmp_path: Path) -> None:
    path = encoder_file("dynamic-int8", tmp_path, portable=portable)
    with pytest.raises(Exception, match=r"Conversion is failed for.*QuantizeLinear"):
        openvino.Core().read_model(str(path))
    session = opened(path)
    for rows, length in SHAPES if portable or has_vnni() else ():  # without VNNI products of ±127 saturate in OpenVINO
        feeds = texts(rows, length)
        assert_alike(of_these_shapes(path, feeds)(feeds)["logits"], session.run(["logits"], feeds)[0])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoder_of_free_shapes_is_refused_and_of_fixed_ones_answers_right(kind: str, tmp_path: Path) -> None:
    path = decoder.write(tiny(kind), tmp_path, simulation=Simulation(portable=True))[0]
    with pytest.raises(Exception, match=r"Conversion is failed for.*QuantizeLinear"):
        openvino.Core().read_model(str(path))
    session = opened(path)
    for shape in STEPS:
        feeds = steps(session, *shape)
        assert_alike(of_these_shapes(path, feeds)(feeds)["logits"], session.run(["logits"], feeds)[0])


@pytest.mark.parametrize("scheme", ["static-int8", "weight-only-int8", "weight-only-int4"])
def test_the_other_forms_answer_right_at_free_shapes(scheme: Scheme, tmp_path: Path) -> None:
    path = encoder_file(scheme, tmp_path)
    session, compiled = opened(path), openvino.Core().compile_model(str(path), "CPU", EXACT)
    for rows, length in SHAPES:
        feeds = texts(rows, length)
        # OpenVINO may round the activations of weight-only layers to 8 bits itself.
        assert_alike(compiled(feeds)["logits"], session.run(["logits"], feeds)[0])
