"""Weights begin at multiples of 64 bytes in every format whose files allow it; offsets are read back from the files."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertForSequenceClassification

from compression.evaluation.runtimes.openvino import FILE, imported
from compression.export.exporter import exporter_of
from compression.export.onnx import decoder
from compression.export.openvino import alignment
from compression.export.openvino.exporter import INT8
from compression.models.files import safetensors_layout
from compression.models.files.safetensors_header import WIDTHS, read_header
from compression.models.sharded_checkpoint import PlannedTensor, writing
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from tests.support.decoder_models import tiny
from tests.support.gguf_models import byte_pairs, decoder as of_blocks
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


def encoder(**changes: Any) -> nn.Module:
    """An encoder with biases of 27 numbers, so that what follows them is not aligned by chance."""
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config(num_labels=3, intermediate_size=27, **changes)).eval()


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


def constants(folder: Path) -> list[tuple[int, int]]:
    """Return the offset and size of each constant."""
    layers = ElementTree.parse(folder / FILE).iter("layer")
    found = [layer.find("data") for layer in layers if layer.get("type") == "Const"]
    return [(int(one.attrib["offset"]), int(one.attrib["size"])) for one in found if one is not None]


def test_openvino_s_constants_are_moved_and_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder()
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    ranges = dict.fromkeys(linear, (-3.0, 4.0))
    insert_fake_quantization(model, simulation=Simulation(scheme="static-int8", portable=True, ranges=ranges))
    made = {}
    for name in ("packed", "aligned"):
        folder = tmp_path / name
        folder.mkdir()
        with monkeypatch.context() as patch:
            if name == "packed":  # as OpenVINO writes it
                patch.setattr("compression.export.openvino.exporter.align_constants", lambda _: None)
            INT8.write(model, folder, "int8")
        ops = imported().Core().read_model(folder / FILE).get_ordered_ops()
        made[name] = {one.get_friendly_name(): one.data for one in ops if one.get_type_name() == "Constant"}
    assert any(offset % LINE for offset, _ in constants(tmp_path / "packed"))
    assert not any(offset % LINE for offset, _ in constants(tmp_path / "aligned"))
    size = (tmp_path / "aligned" / "openvino_model.bin").stat().st_size
    assert size == max(offset + size for offset, size in constants(tmp_path / "aligned"))
    shared = [len(set(constants(tmp_path / name))) for name in made]
    assert shared[0] == shared[1] < len(constants(tmp_path / "packed"))
    assert made["packed"].keys() == made["aligned"].keys()
    for name, value in made["packed"].items():
        np.testing.assert_array_equal(value, made["aligned"][name])
    before = [path.read_bytes() for path in sorted((tmp_path / "aligned").iterdir())]
    alignment.align_constants(tmp_path / "aligned" / FILE)
    assert [path.read_bytes() for path in sorted((tmp_path / "aligned").iterdir())] == before


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
