"""Models of which some layers have 8 bits and others 4: each format has both, and answers as the simulation does."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gguf import GGMLQuantizationType as Blocks, GGUFReader
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, BertForSequenceClassification, PreTrainedModel

from compression.evaluation.runtimes import gguf as runtime
from compression.evaluation.runtimes.runner import open_artifact
from compression.export.compressed_tensors.exporter import W4A16, quantized
from compression.export.exporter import exporter_of
from compression.export.gguf.exporter import Q4_0, Q8_0
from compression.export.manifest import write_config
from compression.export.onnx import decoder
from compression.export.onnx.exporter import write_onnx
from compression.export.parity_check import verify
from compression.export.transformers.exporter import write_transformers
from compression.modalities.registry import scorer_of
from compression.modalities.text.scoring.whole_texts import TextClassScorer
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.pruning_groups import layer_number
from compression.models.linear_layers import is_linear
from compression.planning.search.costs import bytes_of
from compression.quantization.fake_quantize import (
    Simulation,
    insert_fake_quantization,
    remove_fake_quantization,
    simulated_layers,
    simulation_of,
)
from compression.quantization.weight_only import WeightOnlyLinear, dequantized_weights
from compression.schema.artifact_formats import Kind
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate
from tests.compression.export.gguf.test_exporter import agrees, written as gguf_written
from tests.compression.export.test_compressed_tensors import reopens
from tests.support.cards import UNMEASURED, card_of
from tests.support.decoder_models import tiny
from tests.support.gguf_models import decoder as blocked_decoder
from tests.support.tiny_bert import sentences, tiny_config, write_tokenizer
from tests.support.tiny_language import TEXTS, model as language, tokenizer
from tests.support.tiny_shipment import LABELS, MAX_LENGTH

SAMPLE = [{"text": text} for text, _ in sentences(16, seed=5)]
INT4 = Quantize(scheme="weight-only-int4")
LANGUAGE = scorer_of("causal-lm", Evaluate(length=16), ())
TEXT = [{"text": text} for text in TEXTS]


def mixed(model: Any, layer: int = 1) -> Any:
    """Simulate 4 bits, and 8 in one of two layers."""
    names = tuple(name for name, one in model.named_modules() if is_linear(one) and layer_number(name) == layer)
    assert names
    insert_fake_quantization(model, simulation=Simulation.of(INT4).model_copy(update={"eight_bits": names}))
    return model.eval()


def encoder() -> BertForSequenceClassification:
    model: BertForSequenceClassification = mixed(
        BertForSequenceClassification(tiny_config(num_labels=2, hidden_size=48, intermediate_size=80))
    )
    return model


def test_a_model_keeps_which_layers_have_8_bits() -> None:
    model = encoder()
    found = simulation_of(model)
    assert found is not None
    assert (found.scheme, found.group_size) == ("weight-only-int4", 32)
    assert {layer_number(name) for name in found.eight_bits} == {1}
    assert len(found.eight_bits) == 6
    for name, layer in simulated_layers(model):
        assert isinstance(layer, WeightOnlyLinear)
        assert layer.group_size == (None if layer_number(name) == 1 else 32)
        with torch.no_grad():
            inputs, bits = torch.randn(3, layer.in_features), None if layer_number(name) == 1 else 32
            wanted = nn.functional.linear(inputs, dequantized_weights(layer.weight, bits), layer.bias)
            assert torch.equal(layer(inputs), wanted)
    again = Simulation.model_validate_json(found.model_dump_json())
    remove_fake_quantization(model)
    insert_fake_quantization(model, simulation=again)
    assert simulation_of(model) == found
    remove_fake_quantization(model)
    insert_fake_quantization(model, simulation=Simulation.of(INT4))
    assert simulation_of(model) == Simulation.of(INT4)


@pytest.mark.parametrize("kind", ["onnx", "transformers"])
def test_an_encoders_files_answer_as_the_simulation_does(kind: Kind, tmp_path: Path) -> None:
    model = encoder()
    weights = (write_onnx if kind == "onnx" else write_transformers)(model, tmp_path, int8=True)
    write_tokenizer(tmp_path)
    write_config(model, tmp_path, LABELS, MAX_LENGTH, kind)
    scorer = TextClassScorer("accuracy", 2, 1)
    assert verify(model, tmp_path, kind=kind, int8=True, sample=SAMPLE, scorer=scorer, pad_id=0).difference < 1e-6
    told = exporter_of(kind).stored_as(model, "int4")
    finer = sum(model.get_submodule(name).weight.numel() for name in simulation_of(model).eight_bits)  # type: ignore[union-attr]
    assert told == (f"int4, {finer:,} parameters int8" if kind == "onnx" else f"int8, {finer:,} parameters of 8 bits")
    if kind == "onnx":
        proto = onnx.load(weights)
        assert Counter(node.op_type for node in proto.graph.node)["MatMulNBits"] == 14 - 6


def test_a_layer_of_8_bits_takes_the_bytes_that_are_forecast(tmp_path: Path) -> None:
    wide = tiny_config(num_labels=2, hidden_size=64, intermediate_size=96)
    stored = []
    for name, layers in (("four", ()), ("both", (1,))):
        model = BertForSequenceClassification(wide)
        names = tuple(each for each, one in model.named_modules() if is_linear(one) and layer_number(each) in layers)
        insert_fake_quantization(model, simulation=Simulation.of(INT4).model_copy(update={"eight_bits": names}))
        (tmp_path / name).mkdir()
        path = write_onnx(model.eval(), tmp_path / name, int8=True)
        stored.append(sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer))
    parts, shape = adapter_of(model).parameters_of(model), adapter_of(model).shape_of(model.config)
    one = sum(part.numel() for part in model.bert.encoder.layer[0].parameters())
    at = {1: parts.model_copy(update={"total": parts.total - one, "other": parts.other - one}), 2: parts}
    shapes = (shape, shape.model_copy(update={"eight_bits": (1,)}))
    forecast = [bytes_of(each, lambda cut: at[cut.layers], INT4) for each in shapes]
    assert stored[1] - stored[0] == pytest.approx(forecast[1] - forecast[0], rel=0.2)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_a_decoders_file_answers_as_the_simulation_does(kind: str, tmp_path: Path) -> None:
    model = mixed(tiny(kind), layer=0)
    decoder.write(model, tmp_path, simulation=simulation_of(model))
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    names = [one.name for one in proto.graph.initializer if ".weight_int" in one.name]
    both = Counter(name.rpartition(".weight_")[2] for name in names)
    assert both["int4"] > 1
    assert both["int8"] > 1, "the table's rows and a layer's matrices"
    ids = torch.tensor([[3, 5, 7, 4, 6]])
    with torch.no_grad():
        wanted = model(ids).logits.numpy()
    found = open_artifact("onnx", tmp_path, threads=1).step(ids.numpy(), None, np.ones((1, 5), np.int64))[0]
    assert np.abs(found - wanted).max() < 1e-5


def test_a_decoders_checkpoint_opens_with_stock_transformers(tmp_path: Path) -> None:
    model = mixed(tiny("llama"))
    write_transformers(model, tmp_path, int8=True)
    stock: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([[3, 5, 7, 4, 6]])
    with torch.no_grad():
        assert torch.allclose(stock(ids).logits, model(ids).logits, atol=1e-5)


def test_gguf_files_of_4_bits_have_blocks_of_8_where_the_model_has(tmp_path: Path) -> None:
    model = mixed(blocked_decoder("llama"))
    assert agrees(model, gguf_written(model, tmp_path / "four", Q4_0), Q4_0) < 1
    stored = [one for one in GGUFReader(tmp_path / "four" / runtime.FILE).tensors if one.name.endswith("weight")]
    matrices = {one.name: one.tensor_type for one in stored if one.name.startswith("blk.") and "norm" not in one.name}
    assert {kind for name, kind in matrices.items() if name.startswith("blk.1.")} == {Blocks.Q8_0}
    assert {kind for name, kind in matrices.items() if name.startswith("blk.0.")} == {Blocks.Q4_0}
    assert "Q8_0" in Q4_0.stored_as(model, "int4")
    assert agrees(model, gguf_written(model, tmp_path / "eight", Q8_0), Q8_0) < 1
    plain = blocked_decoder("llama")
    insert_fake_quantization(plain, simulation=Simulation(scheme="weight-only-int8"))
    blocks = [one for one in Q4_0._tensors(plain) if one.place.startswith("blk.") and one.owner is not None]
    assert {one.kind for one in blocks} == {Blocks.Q4_0}, "all of them in 8 bits is no choice of bits"


@reopens
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_compressed_tensors_have_a_group_of_layers_for_each(kind: str, tmp_path: Path) -> None:
    if kind == "llama":
        model, scorer, sample = mixed(language("llama", hidden_size=64, intermediate_size=96)), LANGUAGE, TEXT
        tokenizer().save_pretrained(tmp_path)
    else:
        wide = tiny_config(num_labels=2, hidden_size=64, intermediate_size=96)
        model, scorer, sample = mixed(BertForSequenceClassification(wide)), TextClassScorer("accuracy", 2, 1), SAMPLE
        write_tokenizer(tmp_path)
    assert W4A16.lacks(model) is None
    W4A16.write(model, tmp_path, "int4")
    write_config(model, tmp_path, LABELS if kind == "bert" else (), MAX_LENGTH, "ct-w4a16")
    how: dict[str, Any] = {"int8": True, "half": torch.bfloat16, "sample": sample, "scorer": scorer, "pad_id": 0}
    found = verify(model, tmp_path, kind="ct-w4a16", **how)
    assert found.difference < found.allowed.rms
    groups = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["config_groups"]
    assert [one["weights"]["num_bits"] for one in groups.values()] == [4, 8]
    finer = sum(layer.weight.numel() for name, layer in quantized(model) if layer_number(name) == 1)
    assert W4A16.stored_as(model, "int4").startswith(f"int4, {finer:,} parameters int8, ")
    tensors = load_file(tmp_path / "model.safetensors")
    for name, layer in quantized(model):
        whole = tensors[f"{name}.weight_packed"]
        assert whole.shape[1] == layer.in_features // (4 if layer_number(name) == 1 else 8)
        assert any(re.match(one["targets"][0].removeprefix("re:"), name) for one in groups.values())


@pytest.mark.parametrize(
    ("kind", "dtype", "told"),
    [
        ("onnx", "int4, 900 parameters int8, 70 parameters float32", "In some layers 900 parameters are int8 instead, with"),
        (
            "ct-w4a16",
            "int4, 900 parameters int8, 70 parameters bfloat16",
            "Of the blocks' weights 900 parameters are int8 instead,",
        ),
        ("transformers", "int8, 900 parameters of 8 bits", "In some layers 900 parameters have 8 bits instead, with"),
    ],
)
def test_cards_say_what_has_8_bits(kind: str, dtype: str, told: str) -> None:
    """And of what is in floating point beside them, that it is."""
    how: dict[str, Any] = {"kind": kind, "scheme": "weight-only-int4"}
    size = UNMEASURED.size.model_copy(update={"dtype": dtype})
    text = card_of(figures=UNMEASURED.model_copy(update={"size": size}), **how).render()
    assert text.count(told) == 1
    assert text.count("one scale an output channel") == 1
    assert ("70 parameters float32 are matrices that stayed in floating point." in text) == (kind == "onnx")
    assert "one scale an output channel" not in card_of(**how).render()
