"""Graphs of classifiers and readers made of decoders say what the engine says, of a row alone as beside others."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, PreTrainedModel

from compression.evaluation.runtimes.onnx import OnnxRunner
from compression.export.onnx import decoder
from compression.export.onnx.exporter import FILE, compare_interface, write_onnx
from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.text.inputs import Batch
from compression.models.architectures.decoder_tensor_names import FAMILIES
from compression.models.linear_layers import is_linear
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable
from tests.compression.export.onnx.test_decoder import SCHEMES
from tests.support.decoder_families import COMMON, IDS, KINDS, PADDING, tiny, tiny_classifier, tiny_config

LENGTHS = (11, 5, 8)


def padded(side: str = "right") -> Batch:
    """Three rows of unlike length, padded with token 0."""
    mask = (np.arange(IDS.shape[1]) < np.array(LENGTHS)[:, None]).astype(np.int64)
    mask = np.ascontiguousarray(mask[:, ::-1]) if side == "left" else mask
    return Batch(np.where(mask, IDS.numpy(), PADDING), mask, np.zeros_like(mask))


@torch.no_grad()  # in inference mode torchao's tensors of experts cannot be indexed
def answers(model: PreTrainedModel, batch: Batch) -> Logits:
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits.numpy()


def opened(folder: Path) -> OnnxRunner:
    runner = OnnxRunner(folder / FILE, threads=1)
    compare_interface(runner, 2, dict.fromkeys(("input_ids", "attention_mask"), ("tensor(int64)", [True, True])), ("logits",))
    return runner


def alone(runner: OnnxRunner, batch: Batch, row: int) -> Logits:
    """Answer a row by itself, without its padding on the right."""
    length = int(batch.attention_mask[row].sum())
    return runner.logits(Batch(*(value[row : row + 1, :length] for value in vars(batch).values())))[0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_answers_as_the_engine_whoever_shares_the_batch(kind: str, scheme: str, tmp_path: Path) -> None:
    model = tiny_classifier(kind)
    decoder.write(model, tmp_path, simulation=SCHEMES[scheme])
    twin = copy.deepcopy(model)
    if (simulation := SCHEMES[scheme]) is not None:
        insert_fake_quantization(twin, simulation=simulation)
    runner = opened(tmp_path)
    # A value on the edge of two integers may fall either way, in one of the runtimes or in one of the batches.
    near = 1e-5 if scheme != "dynamic-int8" else 3e-2
    for side in ("right", "left"):
        batch = padded(side)
        found = runner.logits(batch)
        assert found == pytest.approx(answers(twin, batch), abs=near)
    batch = padded()
    for row, found in enumerate(runner.logits(batch)):
        assert alone(runner, batch, row) == pytest.approx(found, abs=near)
    if simulation is not None:
        assert np.abs(runner.logits(batch) - answers(model, batch)).max() > 1e-4


@pytest.mark.parametrize("scheme", ["float32", "dynamic-int8"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if FAMILIES[kind.partition("-")[0]].reader is not None])
def test_a_reader_points_at_the_places_that_the_engine_points_at(kind: str, scheme: str, tmp_path: Path) -> None:
    model = tiny(kind, AutoModelForQuestionAnswering)
    decoder.write(model, tmp_path, simulation=SCHEMES[scheme])
    twin = copy.deepcopy(model)
    if (simulation := SCHEMES[scheme]) is not None:
        insert_fake_quantization(twin, simulation=simulation)
    runner, ends = OnnxRunner(tmp_path / FILE, threads=1), ("start_logits", "end_logits")
    compare_interface(runner, 2, dict.fromkeys(("input_ids", "attention_mask"), ("tensor(int64)", [True, True])), ends)
    batch = padded()
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    with torch.no_grad():
        out = twin(input_ids=ids, attention_mask=mask, use_cache=False)
    wanted = torch.stack([out[name] for name in ends], dim=-1)
    assert wanted.shape == (*IDS.shape, 2)
    off = np.abs(runner.logits(batch) - wanted.numpy())[batch.attention_mask == 1]
    assert off.max() < (1e-5 if scheme == "float32" else 3e-2)
    row = int(batch.attention_mask[1].sum())
    assert alone(runner, batch, 1) == pytest.approx(runner.logits(batch)[1, :row], abs=1e-5 if scheme == "float32" else 3e-2)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_static_layers_keep_a_range_each_the_head_too(kind: str, tmp_path: Path) -> None:
    model = tiny_classifier(kind)
    names = [name for name, layer in quantizable(model) if is_linear(layer)]
    ranges = {name: (-2.0 - number, 1.5 + number) for number, name in enumerate(names)}
    simulation = Simulation(scheme="static-int8", ranges=ranges)
    decoder.write(model, tmp_path, simulation=simulation)
    twin = copy.deepcopy(model)
    insert_fake_quantization(twin, simulation=simulation)
    batch = padded("right")
    off, rounding = (opened(tmp_path).logits(batch) - answers(one, batch) for one in (twin, model))
    assert np.median(np.abs(off)) < 0.05 * np.median(np.abs(rounding))


def test_a_row_of_a_model_without_padding_ends_with_its_last_token(tmp_path: Path) -> None:
    model = tiny_classifier("llama")
    model.config.pad_token_id = None
    decoder.write(model, tmp_path)
    row = padded("right").input_ids[1:2]  # ends with what would be padding
    batch = Batch(row, np.ones_like(row), np.zeros_like(row))
    assert opened(tmp_path).logits(batch) == pytest.approx(answers(model, batch), abs=1e-5)


def test_experts_read_the_rows_that_are_sent_to_them_and_no_others(tmp_path: Path) -> None:
    """A traced graph has each expert read each row, as tracing cannot pick them by their values."""
    proto = onnx.load(write_onnx(tiny_classifier("deepseek_v3"), tmp_path, int8=False), load_external_data=False)
    assert [node.op_type for node in proto.graph.node].count("NonZero") == 8 * 2  # experts of two layers


def test_what_no_graph_is_known_for_is_traced(tmp_path: Path) -> None:
    config = tiny_config("llama", hidden_act="tanh")
    assert COMMON["pad_token_id"] == config.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    write_onnx(model, tmp_path, int8=False)
    assert not (tmp_path / decoder.DATA).exists()
    batch = padded("right")
    assert opened(tmp_path).logits(batch) == pytest.approx(answers(model, batch), abs=1e-5)
