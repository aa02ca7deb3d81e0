"""compressed-tensors' forms hold the integers that were trained; stock transformers answers from them as the engine does."""

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.export.compressed_tensors import exporter as compressed_tensors
from compression.export.compressed_tensors.exporter import quantized
from compression.export.compressed_tensors.weights import float8_weight, int4_weight, int8_weight, packed
from compression.export.exporter import exporter_of
from compression.export.manifest import write_config
from compression.export.parity_check import Agreement, verify
from compression.modalities.registry import scorer_of
from compression.modalities.text.scoring.whole_texts import TextClassScorer
from compression.models.adapters.registry import adapter_of
from compression.models.adapters.structure import PruningPlan
from compression.quantization.dynamic_int8 import integer_rows
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.quantization.weight_only import dequantized_weights, grouped_integers
from compression.schema.artifact_formats import COMPRESSED_TENSORS
from compression.schema.errors import ExportMismatch
from compression.schema.recipe.recipe import Evaluate
from tests.support import tiny_bert
from tests.support.cards import card_of
from tests.support.clean_environment import install_releases, link_packages
from tests.support.network_graphs import densenet
from tests.support.network_models import drawn_network
from tests.support.tiny_language import TEXTS, model as tiny, tokenizer

KINDS = [one.name for one in COMPRESSED_TENSORS]
FORMATS = dict(zip(KINDS, ("int-quantized", "pack-quantized", "float-quantized"), strict=True))
SCHEMES = {
    "ct-w8a8": Simulation(scheme="dynamic-int8", portable=True),
    "ct-w4a16": Simulation(scheme="weight-only-int4", group_size=32),
    "ct-fp8": None,
}
"""What is trained as each form is shipped."""
WIDTHS = {"hidden_size": 64, "intermediate_size": 96, "initializer_range": 0.1}
SAMPLE = [{"text": text} for text in TEXTS]
reopens = pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None, reason="compressed-tensors is not installed"
)


def cut(family: str, simulation: Simulation | None, **changes: Any) -> PreTrainedModel:
    """A decoder with fewer heads and units than it was made with, and biases that are not 0 where it has any."""
    whole = tiny(family, **{**WIDTHS, **changes})
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    layers = range(whole.config.num_hidden_layers)
    kept = {f"heads.{number}": torch.tensor([1]) for number in layers} | {f"ffn.{n}": torch.arange(32, 96) for n in layers}
    small: PreTrainedModel = adapter_of(whole).narrowed(whole, PruningPlan(kept, None))
    if simulation is not None:
        insert_fake_quantization(small, simulation=simulation)
    return small.eval()


@cache
def decoder(family: str, kind: str) -> PreTrainedModel:
    """Llama's head is a matrix of its own, Qwen2's the table."""
    return cut(family, SCHEMES[kind], tie_word_embeddings=family == "qwen2")


def written(model: PreTrainedModel, kind: str, folder: Path) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    exporter_of(kind).write(model, folder, exporter_of(kind).precision_of(None, model))
    write_config(model, folder, (), 0, kind)
    return load_file(folder / "model.safetensors")


def unpacked(words: Tensor) -> Tensor:
    """Read eight integers out of each word, as the format says they lie."""
    rows = [[((word >> 4 * place) & 15) - 8 for word in row for place in range(8)] for row in words.tolist()]
    return torch.tensor(rows, dtype=torch.int8)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_has_the_numbers_that_the_model_simulates(kind: str, family: str, tmp_path: Path) -> None:
    model = decoder(family, kind)
    found, layers = written(model, kind, tmp_path), dict(quantized(model))
    assert len(layers) == 7 * model.config.num_hidden_layers
    for name, layer in layers.items():
        scale = found[f"{name}.weight_scale"]
        assert scale.dtype == torch.float32
        if kind == "ct-w8a8":
            whole, scales = integer_rows(layer.weight, layer.levels)
            assert found[f"{name}.weight"].equal(whole)
            assert whole.abs().max() == 63, "the portable range is the trained one"
        elif kind == "ct-w4a16":
            whole, scales = grouped_integers(layer.weight, 32)
            assert unpacked(found[f"{name}.weight_packed"]).equal(whole)
            assert tuple(found[f"{name}.weight_shape"].tolist()) == layer.weight.shape
            assert f"{name}.weight" not in found
        else:
            scales = layer.weight.abs().amax(1, keepdim=True) / 448
            off = found[f"{name}.weight"].float() * scale - layer.weight
            assert (off.abs() <= layer.weight.abs() / 16 + scales / 1024 * 1.01).all(), "half a step of 3 bits, or of the least"
        assert scale.equal(scales)
        assert layer.bias is None or found[f"{name}.bias"].equal(layer.bias.bfloat16())
    others = {name: value for name, value in found.items() if name.rpartition(".")[0] not in layers}
    assert {value.dtype for value in others.values()} == {torch.bfloat16}
    assert ("lm_head.weight" in others) == (family == "llama")
    assert others["model.embed_tokens.weight"].equal(model.get_input_embeddings().weight.bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_config_json_names_the_layout_and_what_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    written(decoder("llama", kind), kind, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    about = config["quantization_config"]
    assert (about["quant_method"], about["format"], about["ignore"]) == ("compressed-tensors", FORMATS[kind], ["lm_head"])
    assert (config["dtype"], config["architectures"], config["num_attention_heads"]) == ("bfloat16", ["LlamaForCausalLM"], 2)
    (group,) = about["config_groups"].values()
    inputs = group["input_activations"]
    assert inputs is None if kind == "ct-w4a16" else (inputs["strategy"], inputs["dynamic"]) == ("token", True)
    assert group["weights"].get("group_size") == (32 if kind == "ct-w4a16" else None)


def test_writing_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = cut("llama", SCHEMES["ct-w8a8"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    written(model, "ct-w4a16", tmp_path)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert classes == [type(module) for module in model.modules()]


def test_a_group_of_the_model_may_become_several_of_the_file_but_never_too_small_ones(tmp_path: Path) -> None:
    """Of 32 inputs after 64, and of 16: vLLM's kernel reads none of these."""
    model = cut("llama", Simulation(scheme="weight-only-int4", group_size=64), hidden_size=96, head_dim=32)
    found = written(model, "ct-w4a16", tmp_path)
    for name, layer in quantized(model):
        values = unpacked(found[f"{name}.weight_packed"]) * found[f"{name}.weight_scale"].repeat_interleave(32, dim=1)
        assert values.equal(dequantized_weights(layer.weight, 64)), "96 inputs are groups of 64 and 32"
    fine = cut("llama", Simulation(scheme="weight-only-int4", group_size=16))
    arguments = exporter_of("ct-w4a16").arguments(fine)["config_groups"]["group_0"]["weights"]  # type: ignore[attr-defined]
    assert arguments["group_size"] == 32, "rounded anew"
    plain = cut("llama", None, hidden_size=256, intermediate_size=192, head_dim=64)
    assert {layer.in_features for _, layer in quantized(plain)} == {256, 128, 64}
    arguments = exporter_of("ct-w4a16").arguments(plain)["config_groups"]["group_0"]["weights"]  # type: ignore[attr-defined]
    assert arguments["group_size"] == 64, "the largest that divides all"


def test_four_bits_are_packed_as_the_package_unpacks_them() -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    whole = torch.randint(-8, 8, (5, 64), dtype=torch.int8)
    whole[0, :16] = torch.arange(-8, 8)
    assert unpacked(packed(whole)).equal(whole)
    assert helpers.unpack_from_int32(packed(whole), 4, whole.shape).equal(whole)
    assert helpers.pack_to_int32(whole, 4).equal(packed(whole))


def test_what_is_stored_stands_for_the_weight() -> None:
    weight = torch.randn(6, 64) * torch.logspace(-3, 2, 6)[:, None]
    weight[2] = 0
    for stored, step in (
        (int8_weight(weight, 127), 1 / 254),
        (int4_weight(weight, 32, 32), 1 / 14),
        (float8_weight(weight), 1 / 16),
    ):
        assert (stored.values - weight).abs().amax(1).le(1.001 * step * weight.abs().amax(1)).all()
        assert not stored.values[2].any()


def reopened(model: PreTrainedModel, kind: str, folder: Path) -> Agreement:
    tokenizer(bos=True).save_pretrained(folder)
    scorer = scorer_of("causal-lm", Evaluate(length=16), ())
    return verify(model, folder, kind=kind, int8=kind != "ct-fp8", sample=SAMPLE, scorer=scorer, pad_id=0)


@reopens
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", KINDS)
def test_reopened_it_answers_as_the_engine_does(kind: str, family: str, tmp_path: Path) -> None:
    model = decoder(family, kind)
    tensors = written(model, kind, tmp_path)
    agreement = reopened(model, kind, tmp_path)
    assert 0 < agreement.difference < agreement.allowed.rms
    # A single layer's scales, four times too large, are noticed: the bound is no formality.
    name = next(name for name in tensors if name.endswith("v_proj.weight_scale"))
    save_file({**tensors, name: tensors[name] * 4}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ExportMismatch):
        reopened(model, kind, tmp_path)


@reopens
def test_the_runtime_names_the_package(tmp_path: Path) -> None:
    from compression.evaluation.runtimes.runner import open_artifact

    written(decoder("llama", "ct-w8a8"), "ct-w8a8", tmp_path)
    assert ", compressed-tensors 0." in open_artifact("ct-w8a8", tmp_path, threads=1).name


@reopens
@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_has_such_a_form_too(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_bert.tiny_config(num_labels=2)).eval()
    insert_fake_quantization(model)
    written(model, kind, tmp_path)
    ignored = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["ignore"]
    assert ignored == ["bert.pooler.dense", "classifier"], "the pooler's rows are no tokens"
    tiny_bert.write_tokenizer(tmp_path)
    rows = [{"text": text} for text, _ in tiny_bert.sentences(8, seed=5)]
    verify(model, tmp_path, kind=kind, int8=True, sample=rows, scorer=TextClassScorer("accuracy", 2, 1), pad_id=0)


def test_it_says_why_a_model_has_no_such_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_text = "compressed-tensors has forms of decoders and encoders of text alone."
    conv = "Its linear layers are of transformers' class Conv1D, which compressed-tensors leaves in floating point."
    fused = "Its experts' weights are in one tensor a layer, of which compressed-tensors has no form."
    reasons: list[tuple[nn.Module, str]] = [(nn.Linear(2, 2), no_text), (drawn_network(densenet()), no_text)]
    for model, reason in [*reasons, (tiny("gpt2"), conv), (tiny("deepseek_v3"), fused)]:
        assert {exporter_of(kind).hinders(model) for kind in KINDS} == {reason}
    odd = tiny("llama", **{**WIDTHS, "intermediate_size": 72})
    reason = "The 72 inputs of model.layers.0.mlp.down_proj are no whole groups of 32."
    assert exporter_of("ct-w4a16").hinders(odd) == reason
    with pytest.raises(TypeError, match="72 inputs"):
        exporter_of("ct-w4a16").write(odd, tmp_path, "int4")
    for there in (True, False):
        monkeypatch.setattr(compressed_tensors, "is_compressed_tensors_available", lambda there=there: there)
        found = [exporter_of(kind).hinders(odd) for kind in ("ct-w8a8", "ct-fp8")]
        missing = "The worker lacks the package compressed-tensors, with which transformers reopens the files."
        assert found == ([None, None] if there else [missing, missing])


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_has_code_for_both_and_says_what_was_not_tried(kind: str) -> None:
    form: dict[str, Any] = {"kind": kind, "scheme": None, "inputs": (), "task": "causal-lm", "labels": (), "positions": 64}
    text = card_of(**form).render()
    codes = [each.split("```")[0] for each in text.split("```python\n")[1:]]
    for code in codes:
        compile(code, "card", "exec")
    assert codes[0].startswith("# pip install torch transformers compressed-tensors\n")
    assert codes[1].startswith("# pip install vllm\n")
    assert "In vLLM (not tried):" in text
    assert {"ct-w8a8": "int8 with", "ct-w4a16": "4-bit integers", "ct-fp8": "float8 (e4m3)"}[kind] in text
    classifier = card_of(kind=kind).render()
    assert "compressed-tensors\n" in classifier
    assert "vLLM" not in classifier


OPENED = """
import importlib.metadata, importlib.util, json, sys
packages, folders, prompts, count, hidden, version = json.loads(sys.argv[1])
sys.path.append(packages)
assert not [name for name in hidden if importlib.util.find_spec(name)], sys.path
assert importlib.metadata.version("compressed-tensors") == version
import torch
from transformers import AutoModelForCausalLM
found = {}
for name, folder in folders.items():
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    ids = torch.tensor([prompts[name]])
    with torch.no_grad():
        logits = model(ids).logits[0].float().tolist()
    tokens = model.generate(ids, max_new_tokens=count, do_sample=False)[0, ids.shape[1] :].tolist()
    found[name] = {"logits": logits, "tokens": tokens}
print(json.dumps(found))
"""
TOLERANCES = {"ct-w8a8": 0.05, "ct-w4a16": 0.02, "ct-fp8": 0.1}
"""Root mean square of the logits' distance from the engine's, as a share of the logits': of bfloat16, and of values that it
sends to the other one of two integers or floats."""
TOKENS = 5


@torch.no_grad()
def firm_continuation(model: nn.Module, share: float) -> tuple[list[int], list[int]]:
    """Find a prompt whose continuation is no close call. -> prompt, tokens"""
    draw = torch.Generator().manual_seed(0)
    for _ in range(500):
        prompt = torch.randint(0, 200, (1, 8), generator=draw)
        ids, firm = prompt, True
        while firm and ids.shape[1] < 8 + TOKENS:
            logits = model(ids).logits[0]
            first, second = logits[-1].topk(2).values
            firm = bool(first - second > 4 * share * logits.square().mean().sqrt())
            ids = torch.cat([ids, logits[-1:].argmax(-1)[None]], dim=1)
        if firm:
            return prompt[0].tolist(), ids[0, 8:].tolist()
    raise AssertionError("no prompt is firm")


@pytest.mark.parametrize("version", ["0.17.1", "0.20.1"])
def test_stock_transformers_alone_opens_them_with_either_release(version: str, tmp_path: Path) -> None:
    packages = link_packages(["torch", "transformers", "psutil"], tmp_path / "packages")
    install_releases([f"compressed-tensors=={version}", "loguru"], packages)
    folders, prompts, wanted = {}, {}, {}
    for family, kind in [("llama", KINDS[0]), ("qwen2", KINDS[0]), *(("qwen2", kind) for kind in KINDS[1:])]:
        name, model = f"{family} {kind}", decoder(family, kind)
        written(model, kind, tmp_path / name)
        reference = exporter_of(kind).reference(model, int8=True)
        prompts[name], tokens = firm_continuation(reference, TOLERANCES[kind])
        with torch.no_grad():
            wanted[name] = tokens, reference(torch.tensor([prompts[name]])).logits[0]
        folders[name] = str(tmp_path / name)
    given = [str(packages), folders, prompts, TOKENS, ["app", "compression", "torchao", "onnxruntime"], version]
    command = [sys.executable, "-I", "-S", "-c", OPENED, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, (tokens, logits) in wanted.items():
        off = (torch.tensor(found[name]["logits"]) - logits).square().mean().sqrt() / logits.square().mean().sqrt()
        assert off < TOLERANCES[name.split()[1]], name
        assert found[name]["tokens"] == tokens, name
