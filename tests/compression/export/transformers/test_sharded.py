"""Quantized as it lies on disk: the same file as of the whole model, and memory for less than one of its tensors."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from compression.export.manifest import write_config
from compression.export.transformers import sharded
from compression.export.transformers.exporter import write_transformers
from compression.models.sharded_checkpoint import SafetensorsReader
from compression.models.skeleton import skeleton, sources
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.quantization.weight_only import dequantized_weights
from compression.schema.errors import ConfigMismatch, ExportMismatch, UnsupportedArchitecture
from tests.compression.models.validation.conftest import edit_json
from tests.support.decoder_models import saved, tensors_in, tiny

ROOT = Path(__file__).parents[4]


def untied(model: PreTrainedModel) -> PreTrainedModel:
    model = copy.deepcopy(model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten().float(), other.flatten().float(), dim=0))


@pytest.mark.parametrize(
    ("kind", "tied", "scheme"),
    [
        ("llama", True, "dynamic-int8"),
        ("qwen2", False, "dynamic-int8"),
        ("qwen3", True, "weight-only-int8"),
        ("mistral", False, "weight-only-int4"),
    ],
)
def test_it_is_the_export_of_the_whole_model(kind: str, tied: bool, scheme: str, tmp_path: Path) -> None:
    model = tiny(kind, tie_word_embeddings=tied).to(torch.bfloat16)
    source = saved(model, tmp_path / "source")
    assert len(list(source.glob("*.safetensors"))) > 2
    written = sharded.quantize(source, tmp_path / "made", scheme=scheme, block=500, largest=9_000)
    assert len(list((tmp_path / "made").glob("*.safetensors"))) > 2
    assert written.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (written.unquantized, written.dtype) == (0, None)
    assert list(sharded.verifying(source, tmp_path / "made", scheme=scheme, block=700))

    whole = untied(model)
    if scheme.startswith("weight-only"):
        size = 32 if scheme == "weight-only-int4" else None
        insert_fake_quantization(whole, simulation=Simulation(scheme=scheme, group_size=size))
    write_transformers(whole, tmp_path / "whole", int8=True)
    made, expected = tensors_in(tmp_path / "made"), tensors_in(tmp_path / "whole")
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        assert made[name].dtype == value.dtype, name
        assert made[name].equal(value), name
    made, whole = next((tmp_path / "made").glob("*.safetensors")), tmp_path / "whole" / "model.safetensors"
    with safe_open(made, "pt") as one, safe_open(whole, "pt") as other:
        assert one.metadata() == other.metadata()
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "made" / file).read_text()) == json.loads((tmp_path / "whole" / file).read_text())

    opened, stock = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).eval() for name in ("made", "whole")
    )
    ids = torch.arange(3, 19)[None]
    with torch.inference_mode():
        logits = opened(ids).logits
        assert logits.equal(stock(ids).logits)
        original = model.float()(ids).logits
    assert not logits.equal(original)
    assert likeness(logits, original) > (0.97 if scheme == "weight-only-int4" else 0.99)


def test_a_checkpoint_of_the_bare_model_lacks_its_prefix_and_is_taken(tmp_path: Path) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    source = saved(model, tmp_path / "source", largest=10**9)
    whole = {name.removeprefix("model."): value for name, value in load_file(source / "model.safetensors").items()}
    assert "embed_tokens.weight" in whole
    whole["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # of an older version
    save_file(whole, source / "model.safetensors", {"format": "pt"})
    found = sources(skeleton(source), SafetensorsReader(source))
    assert found.keys() == model.state_dict().keys()
    assert found["lm_head.weight"] == found["model.embed_tokens.weight"] == ("embed_tokens.weight",)


def test_what_older_versions_left_with_the_weights_is_not_read(tmp_path: Path) -> None:
    source = saved(tiny("gpt2"), tmp_path / "source", largest=10**9)
    whole, file = load_file(source / "model.safetensors"), source / "model.safetensors"
    more = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file({**whole, **more}, file, {"format": "pt"})
    found = sources(skeleton(source), SafetensorsReader(source))
    assert not {*more} & {part for parts in found.values() for part in parts}


def test_a_classifier_s_checkpoint_may_have_the_output_layer_that_it_was_made_of(tmp_path: Path) -> None:
    model = tiny("llama", "ForSequenceClassification")
    source = saved(model, tmp_path / "source", largest=10**9)
    whole, file = load_file(source / "model.safetensors"), source / "model.safetensors"
    save_file({**whole, "lm_head.weight": whole["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    assert sources(skeleton(source), SafetensorsReader(source)).keys() == model.state_dict().keys()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_that_this_machine_lacks_are_not_asked_for(key: str, tmp_path: Path) -> None:
    source = saved(tiny("llama"), tmp_path / "source", largest=10**9)
    edit_json(source / "config.json", lambda value: value.update({key: "flash_attention_2"}))
    assert skeleton(source).config._attn_implementation == "sdpa"
    assert [*sharded.quantizing(source, tmp_path / "made")]
    write_config(skeleton(tmp_path / "made"), tmp_path / "made", (), 8, "transformers")
    assert "flash" not in (tmp_path / "made/config.json").read_text()


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    source = saved(tiny("llama", tie_word_embeddings=False), tmp_path / "source", largest=10**9)
    whole, file = load_file(source / "model.safetensors"), source / "model.safetensors"
    name = "model.layers.1.mlp.down_proj.weight"

    def refused(weights: dict[str, torch.Tensor]) -> str:
        save_file(weights, file, {"format": "pt"})
        with pytest.raises(ConfigMismatch) as caught:
            sharded.quantize(source, tmp_path / "made")
        assert not (tmp_path / "made").exists()
        return str(caught.value.param)

    assert name in refused({key: value for key, value in whole.items() if key != name})
    assert name in refused({**whole, name: whole[name].T.contiguous()})
    assert "backdoor" in refused({**whole, "backdoor": torch.ones(3)})
    for architecture in ("LlamaForWorldPeace", "BertForMaskedLM", "pipeline", "PreTrainedModel"):
        edit_json(source / "config.json", lambda value, name=architecture: value.update(architectures=[name]))
        with pytest.raises(UnsupportedArchitecture):
            sharded.quantize(source, tmp_path / "made")


@pytest.mark.parametrize("scheme", ["dynamic-int8", "weight-only-int4"])
@pytest.mark.parametrize("kind", ["deepseek_v2", "deepseek_v3"])
def test_experts_are_fused_and_quantized_one_row_at_a_time(kind: str, scheme: str, tmp_path: Path) -> None:
    model = tiny(kind)
    source = saved(model.to(torch.bfloat16), tmp_path / "source")
    assert any(".experts.3.gate_proj." in name for name in tensors_in(source))  # one by one, as their authors publish them
    written = sharded.quantize(source, tmp_path / "made", scheme=scheme, block=500, largest=9_000)
    assert list(sharded.verifying(source, tmp_path / "made", scheme=scheme, block=300))
    routers = [name for name, weight in model.named_parameters() if name.endswith("mlp.gate.weight")]
    assert written.unquantized == sum(model.get_parameter(name).numel() for name in routers)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    experts = opened.model.layers[1].mlp.experts
    assert type(experts.gate_up_proj).__name__ == type(experts.down_proj).__name__ == "Int8Tensor"
    wanted = model.model.layers[1].mlp.experts.gate_up_proj.float()
    if scheme == "weight-only-int4":  # each expert's 4-bit integers, those of a linear layer of its own
        assert torch.allclose(experts.gate_up_proj.dequantize(), torch.stack([dequantized_weights(one, 32) for one in wanted]))
    else:
        assert torch.allclose(experts.gate_up_proj.dequantize(), wanted, atol=1e-3)
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():  # torchao's tensors cannot be indexed in inference mode
        assert likeness(opened(ids).logits, model.float()(ids).logits) > 0.97


def test_matrices_that_stock_code_has_no_integers_for_stay_as_they_are(tmp_path: Path) -> None:
    model = tiny("gpt2").to(torch.bfloat16)
    source = saved(model, tmp_path / "source")
    written = sharded.quantize(source, tmp_path / "made")
    assert list(sharded.verifying(source, tmp_path / "made", scheme="dynamic-int8"))
    found = tensors_in(tmp_path / "made")
    layers = {name: value for name, value in model.state_dict().items() if name.startswith("transformer.h") and value.ndim > 1}
    assert len(layers) == 8
    assert all(found[name].equal(weight) for name, weight in layers.items())
    assert (written.unquantized, written.dtype) == (sum(weight.numel() for weight in layers.values()), "bfloat16")
    assert found["transformer.wte._weight_qdata"].dtype == torch.int8
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32).eval()
    ids = torch.arange(3, 19)[None]
    with torch.inference_mode():
        assert likeness(opened(ids).logits, model.float()(ids).logits) > 0.99


@pytest.mark.parametrize("part", ["_weight_qdata", "_weight_scale", "input_layernorm.weight"])
def test_a_file_that_says_otherwise_than_its_source_is_found(part: str, tmp_path: Path) -> None:
    source = saved(tiny("llama"), tmp_path / "source", largest=10**9)
    sharded.quantize(source, tmp_path / "made")
    file = tmp_path / "made" / "model.safetensors"
    whole = load_file(file)
    name = next(name for name in whole if name.endswith(part))
    whole[name].view(-1)[-1] *= 2
    with safe_open(file, "pt") as before:
        save_file(whole, file.with_name("other"), before.metadata())
    file.with_name("other").rename(file)
    with pytest.raises(ExportMismatch):
        list(sharded.verifying(source, tmp_path / "made", scheme="dynamic-int8"))


SMALL = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from compression.export.transformers import sharded

source, place, room = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
tiny = source.with_name("tiny")
sharded.quantize(tiny, place.with_name("warm"))  # what the libraries allocate once
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + room, held + room))
sharded.quantize(source, place, block=room >> 6, largest=1 << 22)
try:
    torch.empty(2 * room, dtype=torch.uint8)
except (RuntimeError, MemoryError):
    print("the limit holds")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_a_model_of_many_times_the_memory_is_quantized(tmp_path: Path) -> None:
    # Half of it for what a block of 512 KiB takes, half for what is none of ours: a thread's stack alone is 8 MiB here.
    room = 32 << 20
    saved(tiny("llama"), tmp_path / "tiny")
    model = tiny("llama", vocab_size=1 << 19, hidden_size=64, head_dim=16, tie_word_embeddings=False).to(torch.bfloat16)
    source = saved(model, tmp_path / "source", largest=1 << 26)
    assert sum(path.stat().st_size for path in source.glob("*.safetensors")) > 3 * room
    assert max(path.stat().st_size for path in source.glob("*.safetensors")) > room  # not even one shard fits
    command = [sys.executable, "-c", SMALL, str(source), str(tmp_path / "made"), str(room)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert child.returncode == 0, child.stderr[-2000:]
    assert "the limit holds" in child.stdout
    made = SafetensorsReader(tmp_path / "made")
    rows = made.tensor("model.embed_tokens._weight_qdata")
    scale = made.tensor("model.embed_tokens._weight_scale")
    assert (rows * scale - model.model.embed_tokens.weight.float()).abs().max() <= scale.max()
