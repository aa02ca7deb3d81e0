"""Weights begin at multiples of 64 bytes in every format whose files allow it; offsets are read back from the files."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertForSequenceClassification

from compression.evaluation.runtimes.openvino import imported
from compression.export.exporter import exporter_of
from compression.export.onnx import decoder
from compression.export.openvino.alignment import align_constants
from compression.models.files import safetensors_layout
from compression.models.files.safetensors_header import WIDTHS, read_header
from compression.models.sharded_checkpoint import PlannedTensor, writing
from tests.support.decoder_models import tiny
from tests.support.gguf_models import byte_pairs, decoder as of_blocks
from tests.support.openvino_files import openvino_constants
from tests.support.tiny_bert import tiny_config

LINE = 64
ODD = {
    "flag": torch.ones(3, dtype=torch.int8),
    "half": torch.arange(5).half(),
    "big": torch.randn(16, 7),
    "bias": torch.randn(7),
    "whole": torch.arange(128, dtype=torch.int8),
    "wide": torch.arange(3),
    "one": torch.tensor(2.5),
    "none": torch.empty(0, 4),
}


def encoder() -> nn.Module:
    """An encoder with biases of 27 numbers, so that what follows them is not aligned by chance."""
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config(num_labels=3, intermediate_size=27)).eval()


def assert_aligned(path: Path) -> None:
    """Tensors of whole lines begin at lines, all others at multiples of their width."""
    tensors = read_header(path)
    assert min(tensor.start for tensor in tensors) % LINE == 0
    for tensor in tensors:
        assert tensor.start % (WIDTHS[tensor.dtype] if (tensor.end - tensor.start) % LINE else LINE) == 0


def test_a_rewritten_checkpoint_is_the_same_to_stock_readers(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(ODD, path, metadata={"format": "pt", "more": "said"})
    with pytest.raises(AssertionError):
        assert_aligned(path)
    safetensors_layout.align(tmp_path)
    assert_aligned(path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "more": "said"}
    found = load_file(path)
    assert found.keys() == ODD.keys()
    assert all(found[name].equal(value) and found[name].dtype == value.dtype for name, value in ODD.items())
    before = path.stat()
    safetensors_layout.align(tmp_path)
    assert path.stat() == before, "a file in order is not written again"


def test_a_checkpoint_in_pieces_has_the_same_order(tmp_path: Path) -> None:
    with writing(
        tmp_path / "made", [[PlannedTensor(name, value.dtype, tuple(value.shape)) for name, value in ODD.items()]]
    ) as to:
        for name, value in ODD.items():
            to.put(name, value)
    assert_aligned(tmp_path / "made" / "model.safetensors")
    assert load_file(tmp_path / "made" / "model.safetensors")["big"].equal(ODD["big"])


@pytest.mark.parametrize("kind", ["transformers", "transformers-bf16", "ct-w8a8"])
def test_checkpoints_are_aligned(kind: str, tmp_path: Path) -> None:
    model, exporter = encoder(), exporter_of(kind)
    exporter.write(model, tmp_path, exporter.precision_of("dynamic-int8", model))
    assert_aligned(tmp_path / "model.safetensors")


def test_openvino_s_constants_are_moved_and_stay_the_same(tmp_path: Path) -> None:
    """Of a graph with constants of odd sizes, two of which share their bytes; exporters' own files: test_openvino_forms.py."""
    openvino = imported()
    ops, path = openvino.opset13, tmp_path / "odd.xml"
    given = value = ops.parameter([1, 5], openvino.Type.f32)
    for number, numbers in enumerate((np.arange(25.0).reshape(5, 5), np.arange(5), np.float32(2), np.float32(2))):
        constant = ops.constant(np.asarray(numbers, np.int8 if number == 1 else np.float32), name=f"c{number}")
        constant = ops.convert(constant, "f32") if number == 1 else constant
        value = ops.add(value, constant) if number else ops.matmul(value, constant, False, False)
    openvino.save_model(openvino.Model([value], [given]), path, compress_to_fp16=False)
    packed, numbers = openvino_constants(path), values(path)
    assert any(offset % LINE for offset, _ in packed)
    align_constants(path)
    found = openvino_constants(path)
    assert not any(offset % LINE for offset, _ in found)
    assert len(set(found)) == len(set(packed)) == len(packed) - 1
    assert path.with_suffix(".bin").stat().st_size == max(offset + size for offset, size in found)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["odd.bin", "odd.xml"]
    for name, value in values(path).items():
        np.testing.assert_array_equal(value, numbers[name])
    before = [one.read_bytes() for one in sorted(tmp_path.iterdir())]
    align_constants(path)
    assert [one.read_bytes() for one in sorted(tmp_path.iterdir())] == before


def values(path: Path) -> dict[str, Any]:
    """Return copies of a file's constants by name."""
    ops = imported().Core().read_model(path).get_ordered_ops()
    return {one.get_friendly_name(): one.data.copy() for one in ops if one.get_type_name() == "Constant"}


def test_onnx_s_external_data_begin_at_pages(tmp_path: Path) -> None:
    decoder.write(tiny("llama", hidden_size=80, intermediate_size=112), tmp_path)
    proto = onnx.load(tmp_path / decoder.FILE, load_external_data=False)
    outside = [{one.key: one.value for one in tensor.external_data} for tensor in proto.graph.initializer]
    offsets = [int(one["offset"]) for one in outside if one]
    assert len(offsets) > 3
    assert not any(offset % 4096 for offset in offsets)


def test_gguf_s_tensors_begin_at_lines(tmp_path: Path) -> None:
    byte_pairs(tmp_path)
    exporter_of("gguf-q8-0").write(of_blocks("llama", hidden_size=40), tmp_path, "int8")
    read = GGUFReader(tmp_path / "model.gguf")
    assert read.fields["general.alignment"].contents() == LINE
    assert not any(tensor.data_offset % LINE for tensor in read.tensors)
    assert any(tensor.n_bytes % LINE for tensor in read.tensors), "else they would be without it"
