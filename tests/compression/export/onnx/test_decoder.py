"""ONNX files of language models say what the engine says, a prompt at once or token by token, and go on as stock code does."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compression.evaluation.runtimes.runner import open_artifact
from compression.export.onnx import decoder
from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.text.decoding import Decoder, greedy
from compression.modalities.text.inputs import Ids
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, quantizable
from compression.schema.artifact_formats import Kind
from compression.schema.errors import UnsupportedArchitecture
from tests.support.decoder_models import VOCABULARY, tiny

SCHEMES = {
    "float32": None,
    "dynamic-int8": Simulation(),
    "weight-only-int8": Simulation(scheme="weight-only-int8"),
    "weight-only-int4": Simulation(scheme="weight-only-int4", group_size=32),
}
STRETCHED = {"rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 8}
LLAMA3 = {**STRETCHED, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {**STRETCHED, "rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 32, "beta_slow": 1}
"""As Llama 3.1 and DeepSeek-V3 stretch their positions; so few originally that the prompts go beyond them."""
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-scaled": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-left-over": ("llama", {"sliding_window": 4}),
    "mistral": ("mistral", {"sliding_window": 4, "head_dim": 16}),
    "mistral-left-over": ("mistral", {"sliding_window": 4, "layer_types": ["full_attention"] * 2}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "gpt2": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "deepseek_v2": ("deepseek_v2", {"topk_method": "group_limited_greedy"}),
    "deepseek_v3": ("deepseek_v3", {}),
    "deepseek_v3-yarn": ("deepseek_v3", {"rope_parameters": YARN}),
    "deepseek_v3-halves": ("deepseek_v3", {"rope_interleave": False, "q_lora_rank": None}),
}


def made(kind: str) -> PreTrainedModel:
    stem, changes = KINDS[kind]
    return tiny(stem, **changes)


def opened(folder: Path, kind: Kind = "onnx") -> Decoder:
    return open_artifact(kind, folder, threads=1)


def simulated(model: PreTrainedModel, scheme: str) -> PreTrainedModel:
    """Copy a model, with its integers in; GPT-2's layers as the nn.Linear that they compute as."""
    twin = copy.deepcopy(model)
    for name, module in [*twin.named_modules()]:
        if isinstance(module, Conv1D):
            layer = nn.Linear(module.nx, module.nf)
            layer.weight, layer.bias = nn.Parameter(module.weight.T.contiguous()), module.bias
            parent, _, own = name.rpartition(".")
            setattr(twin.get_submodule(parent), own, layer)
    if (simulation := SCHEMES[scheme]) is not None:
        insert_fake_quantization(twin, simulation=simulation)
    return twin


def prompts(rows: int = 3, length: int = 11) -> tuple[Ids, Ids]:
    """Tokens and mask, padded on the left, as for generating."""
    draw = np.random.default_rng(2)
    mask = np.ones((rows, length), np.int64)
    for row in range(1, rows):
        mask[row, : 2 * row] = 0
    return draw.integers(1, VOCABULARY, (rows, length)), mask


@torch.inference_mode()
def answers(model: PreTrainedModel, ids: Ids, mask: Ids) -> Logits:
    places = torch.from_numpy(np.maximum(mask.cumsum(axis=1) - 1, 0))
    return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), position_ids=places).logits.numpy()


def stepwise(runner: Decoder, ids: Ids, mask: Ids) -> Logits:
    cache, found = None, []
    for at in range(ids.shape[1]):
        column = slice(at, at + 1)
        logits, cache = runner.step(np.ascontiguousarray(ids[:, column]), cache, np.ascontiguousarray(mask[:, column]))
        found.append(logits)
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_answered_as_by_the_engine_at_once_and_token_by_token(kind: str, scheme: str, tmp_path: Path) -> None:
    model = made(kind)
    decoder.write(model, tmp_path, simulation=SCHEMES[scheme])
    runner = opened(tmp_path)
    ids, mask = prompts()
    real = mask.astype(bool)
    wanted, found = answers(simulated(model, scheme), ids, mask)[real], runner.step(ids, None, mask)[0][real]
    assert np.median(np.abs(found - wanted)) < 1e-6
    # A value on the edge of two integers may fall either way.
    assert np.abs(found - wanted).max() < (1e-5 if scheme != "dynamic-int8" else 1e-2)
    assert stepwise(runner, ids, mask)[real] == pytest.approx(found, abs=1e-5 if scheme != "dynamic-int8" else 1e-2)
    if scheme != "float32":
        assert np.abs(found - answers(model, ids, mask)[real]).max() > 1e-4


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2"])
def test_static_layers_keep_a_range_each(kind: str, tmp_path: Path) -> None:
    model = made(kind)
    twin = simulated(model, "float32")
    names = [name for name, layer in quantizable(twin) if isinstance(layer, nn.Linear)]
    ranges = {name: (-2.0 - number, 1.5 + number) for number, name in enumerate(names)}
    simulation = Simulation(scheme="static-int8", ranges=ranges)
    insert_fake_quantization(twin, simulation=simulation)
    decoder.write(model, tmp_path, simulation=simulation)
    ids, mask = prompts()
    real = mask.astype(bool)
    found = opened(tmp_path).step(ids, None, mask)[0][real]
    off, rounding = found - answers(twin, ids, mask)[real], found - answers(model, ids, mask)[real]
    assert np.median(np.abs(off)) < 0.02 * np.median(np.abs(rounding))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "deepseek_v3"])
def test_float32_generates_what_stock_transformers_does(kind: str, tmp_path: Path) -> None:
    model = made(kind)
    decoder.write(model, tmp_path)
    model.save_pretrained(tmp_path / "stock")
    model.generation_config.eos_token_id = None  # goes on to the end
    ids, mask = prompts()
    asked = {"attention_mask": torch.from_numpy(mask), "max_new_tokens": 12, "do_sample": False}
    with torch.inference_mode():
        wanted = model.generate(torch.from_numpy(ids), **asked)[:, ids.shape[1] :].numpy()
    for runner in (opened(tmp_path), opened(tmp_path / "stock", "transformers")):
        found = [chosen for chosen, _ in zip(greedy(runner, ids, mask), range(12), strict=False)]
        assert np.array_equal(np.stack(found, axis=1), wanted)


def test_names_and_free_sizes_are_those_of_the_usual_exports(tmp_path: Path) -> None:
    decoder.write(made("llama"), tmp_path)
    proto = onnx.load(tmp_path / decoder.FILE, load_external_data=False)
    inputs, outputs = (
        {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
        for values in (proto.graph.input, proto.graph.output)
    )
    total = "past_sequence_length + sequence_length"
    parts = [f"{number}.{part}" for number in (0, 1) for part in ("key", "value")]
    past = {f"past_key_values.{part}": ["batch_size", 2, "past_sequence_length", 8] for part in parts}
    present = {f"present.{part}": ["batch_size", 2, total, 8] for part in parts}
    row = ["batch_size", "sequence_length"]
    assert inputs == {"input_ids": row, "attention_mask": ["batch_size", total], "position_ids": row, **past}
    assert outputs == {"logits": [*row, VOCABULARY], **present}


@pytest.mark.parametrize(
    ("scheme", "tables"), [("float32", 1), ("dynamic-int8", 1), ("weight-only-int8", 1), ("weight-only-int4", 2)]
)
def test_a_tied_head_shares_its_table_wherever_both_are_rounded_alike(scheme: str, tables: int, tmp_path: Path) -> None:
    decoder.write(made("llama-tied"), tmp_path, simulation=SCHEMES[scheme])
    proto = onnx.load(tmp_path / decoder.FILE, load_external_data=False)
    wide = [tensor for tensor in proto.graph.initializer if VOCABULARY in tensor.dims and len(tensor.dims) > 1]
    assert len([tensor for tensor in wide if "scale" not in tensor.name]) == tables


def test_weights_lie_beside_the_graph_each_at_a_page_of_its_own(tmp_path: Path) -> None:
    graph, data = decoder.write(tiny("llama", intermediate_size=256, hidden_size=64), tmp_path)
    proto = onnx.load(graph, load_external_data=False)
    outside = [{entry.key: entry.value for entry in tensor.external_data} for tensor in proto.graph.initializer]
    outside = [entry for entry in outside if entry]
    assert len(outside) > 6
    assert {entry["location"] for entry in outside} == {data.name}
    assert all(int(entry["offset"]) % 4096 == 0 for entry in outside)
    assert max(int(entry["offset"]) + int(entry["length"]) for entry in outside) == data.stat().st_size
    assert graph.stat().st_size < data.stat().st_size


@pytest.mark.parametrize("kind", ["qwen2", "deepseek_v3"])
def test_weights_may_come_from_elsewhere_one_at_a_time(kind: str, tmp_path: Path) -> None:
    model = made(kind).to(torch.bfloat16)
    with torch.device("meta"):
        empty = type(model)(model.config)
    asked: list[str] = []

    def read(name: str) -> torch.Tensor:
        asked.append(name)
        return model.state_dict()[name]

    for name, source in (("whole", model), ("read", empty)):
        (tmp_path / name).mkdir()
        decoder.write(source, tmp_path / name, simulation=Simulation(), read=read if name == "read" else None)
    assert sorted(asked) == sorted(model.state_dict())
    for file in (decoder.FILE, decoder.DATA):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "read" / file).read_bytes()


def test_nothing_of_a_model_is_overlooked(tmp_path: Path) -> None:
    model = made("llama")
    model.model.layers[1].self_attn.extra = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"model\.layers\.1\.self_attn\.extra\.weight"):
        decoder.write(model, tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "cause"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}}, "dynamic"),
        ("llama", {"hidden_act": "tanh"}, "tanh"),
        ("gpt2", {"add_cross_attention": True}, "cross-attention"),
    ],
)
def test_what_a_graph_is_not_known_for_is_refused(kind: str, changes: dict[str, Any], cause: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitecture, match=cause):
        decoder.write(tiny(kind, **changes), tmp_path)
