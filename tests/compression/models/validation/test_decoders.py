"""Uploads of every family of decoders are held against what the stock class saves, and known by their facts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel

from compression.models.adapters.registry import adapter_of
from compression.models.architectures.decoder_tensor_names import FAMILIES
from compression.models.validation import decoder
from tests.compression.models.validation.conftest import edit_json, judged, reasons
from tests.support.decoder_models import tiny, with_prediction
from tests.support.encoder_models import write_tokenizer

INDEX = "model.safetensors.index.json"
KINDS = list(FAMILIES)
BIASED = {"llama": {"attention_bias": True, "mlp_bias": True}, "qwen3": {"attention_bias": True}}
FORMS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS),
    *BIASED.items(),
    ("deepseek_v2", {"q_lora_rank": None}),
    ("deepseek_v3", {"first_k_dense_replace": 2, "attention_bias": True}),
]


def upload(folder: Path, kind: str, head: str = "ForCausalLM", *, largest: int = 10**9, **changes: Any) -> PreTrainedModel:
    model = tiny(kind, head, **changes)
    model.save_pretrained(folder, max_shard_size=largest)
    write_tokenizer(folder)
    return model


def test_several_classes_a_text_are_refused(tmp_path: Path) -> None:
    upload(tmp_path, "llama", "ForSequenceClassification", problem_type="multi_label_classification", num_labels=3)
    assert "problem_type" in reasons(tmp_path)["unsupported_architecture"]


HEADS = ["Model", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering"]


@pytest.mark.parametrize(
    ("kind", "changes", "head"),
    [(*form, head) for form in FORMS for head in HEADS if head != HEADS[-1] or FAMILIES[form[0]].reader is not None],
)
def test_what_the_stock_class_saves_is_what_is_expected(kind: str, changes: dict[str, Any], head: str, tmp_path: Path) -> None:
    model = upload(tmp_path, kind, head, **changes)
    described, problems = decoder.describe(json.loads((tmp_path / "config.json").read_text()))
    assert not problems
    expected = decoder.expected(described)
    prefix = "" if head == "Model" else expected.prefix
    needed = {prefix + name: shape for name, shape in expected.needed.items()} | expected.head
    assert needed == {name: value.shape for name, value in load_file(tmp_path / "model.safetensors").items()}
    facts = judged(tmp_path)
    assert (facts.family, facts.architecture) == (kind, type(model).__name__)
    assert facts.parameters.total == sum(parameter.numel() for parameter in model.parameters())
    assert facts.max_positions == model.config.max_position_embeddings
    assert facts.shape == adapter_of(model).shape_of(model.config)
    assert facts.biases == adapter_of(model).biases(model.config)
    assert facts.labels == (("LABEL_0", "LABEL_1") if head == "ForSequenceClassification" else None)
    assert facts.speaks == (head == "ForCausalLM" or model.config.tie_word_embeddings)
    assert facts.parameters.embedding == model.get_input_embeddings().weight.numel() + (64 * 32 if kind == "gpt2" else 0)


def test_a_real_config_is_one_on_the_meta_device(tmp_path: Path) -> None:
    config = {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
        "max_position_embeddings": 131072, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 12,
        "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 10000,
        "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
        "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = transformers.Qwen2ForCausalLM(AutoConfig.from_pretrained(tmp_path))
    described, problems = decoder.describe(config)
    assert not problems
    expected = decoder.expected(described)
    needed = {expected.prefix + name: shape for name, shape in expected.needed.items()} | expected.head
    assert needed == {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert decoder.parameters(described).total == model.num_parameters() == 1_777_088_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_tensor_and_one_too_many_are_named(kind: str, tmp_path: Path) -> None:
    upload(tmp_path, kind, largest=20_000)
    index = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    name = next(name for name in index if ".1." in name and "mlp" in name and name.endswith("weight"))
    file = tmp_path / index[name]
    whole = load_file(file)
    assert len({*index.values()}) > 1

    def put(weights: dict[str, Any]) -> None:
        save_file(weights, file)
        others = {key: value for key, value in index.items() if value != file.name}
        edit_json(tmp_path / INDEX, lambda it: it.update(weight_map=others | dict.fromkeys(weights, file.name), metadata={}))

    put({key: value for key, value in whole.items() if key != name})
    assert name in reasons(tmp_path)["config_mismatch"]
    put({**whole, name: whole[name][:-1].copy()})
    assert name in reasons(tmp_path)["config_mismatch"]
    put({**whole, "model.layers.1.backdoor.weight": whole[name]})
    assert "backdoor" in reasons(tmp_path)["config_mismatch"]
    put(whole)
    judged(tmp_path)


@pytest.mark.parametrize(("kind", "turned"), [("llama", 8), ("mistral", 8), ("qwen2", 8), ("qwen3", 8), ("deepseek_v3", 4)])
def test_what_older_versions_saved_beside_the_weights_is_taken(kind: str, turned: int, tmp_path: Path) -> None:
    upload(tmp_path, kind, tie_word_embeddings=True)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    buffer = whole["model.norm.weight"][: turned // 2]
    more = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": buffer.copy() for layer in (0, 1)}
    save_file({**whole, **more, "lm_head.weight": whole["model.embed_tokens.weight"].copy()}, path)
    facts = judged(tmp_path)
    counted = {name: value for name, value in whole.items() if not name.endswith("correction_bias")}
    assert facts.parameters.total == sum(value.size for value in counted.values())


@pytest.mark.parametrize("head", ["Model", "ForCausalLM"])
def test_an_output_layer_that_is_tied_to_the_table_and_is_another_is_refused(head: str, tmp_path: Path) -> None:
    model = upload(tmp_path, "llama", head, tie_word_embeddings=True)
    path, table = tmp_path / "model.safetensors", model.get_input_embeddings().weight.detach().clone().numpy()
    whole = load_file(path)
    save_file({**whole, "lm_head.weight": table}, path)
    judged(tmp_path)
    table[-1, -1] += 1e-4
    save_file({**whole, "lm_head.weight": table}, path)
    assert "their weights differ" in reasons(tmp_path)["config_mismatch"]
    if head == "ForCausalLM":
        edit_json(tmp_path / "config.json", lambda config: config.update(tie_word_embeddings=False))
        judged(tmp_path)


@pytest.mark.parametrize(("kind", "key"), [("mistral", "num_key_value_heads"), ("qwen3", "num_key_value_heads")])
def test_what_a_config_leaves_out_is_what_the_stock_config_has(kind: str, key: str, tmp_path: Path) -> None:
    stock = getattr(CONFIG_MAPPING[kind](), key)
    changes = {"num_attention_heads": 2 * stock, key: stock, "head_dim": 2, "hidden_size": 4 * stock, "intermediate_size": 16}
    upload(tmp_path, kind, **changes)
    edit_json(tmp_path / "config.json", lambda config: config.pop(key))
    assert judged(tmp_path).shape.groups == stock


def test_layers_that_predict_several_tokens_are_left_out_and_nothing_else_is(tmp_path: Path) -> None:
    model = upload(tmp_path, "deepseek_v3")
    assert {"model.layers.2.eh_proj.weight", "model.layers.2.mlp.experts.3.up_proj.weight"} < {*with_prediction(tmp_path)}
    facts = judged(tmp_path)
    assert facts.parameters.total == sum(parameter.numel() for parameter in model.parameters())
    assert facts.shape == adapter_of(model).shape_of(model.config)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    norm = whole["model.layers.2.enorm.weight"]
    for more in ("model.layers.3.enorm.weight", "model.layers.2.onorm.weight", "model.layers.1.enorm.weight"):
        save_file({**whole, more: norm.copy()}, path)
        assert more in reasons(tmp_path)["config_mismatch"]
    save_file({**whole, "model.layers.2.enorm.weight": norm[:-1].copy()}, path)
    assert "model.layers.2.enorm.weight" in reasons(tmp_path)["config_mismatch"]
    # A layer too many is none of them.
    save_file({name: value for name, value in whole.items() if "eh_proj" not in name}, path)
    assert "model.layers.2" in reasons(tmp_path)["config_mismatch"]
    save_file(whole, path)
    judged(tmp_path)
    edit_json(tmp_path / "config.json", lambda config: config.update(num_nextn_predict_layers=0))
    assert "model.layers.2" in reasons(tmp_path)["config_mismatch"]


ROPE = "rope_parameters"
REFUSED: dict[str, dict[str, list[dict[str, object]]]] = {
    "unsafe_checkpoint": {"llama": [{"attn_implementation": "evil/kernels"}]},
    "unsupported_architecture": {
        "llama": [
            {"quantization_config": {"quant_method": "fp8"}}, {"architectures": ["BertModel"]}, {"hidden_act": "evil"},
            {ROPE: {"rope_type": "longrope", "rope_theta": 1.0}}, {ROPE: {"rope_type": ["linear"], "factor": 2.0}},
            {"is_causal": False}, {"partial_rotary_factor": 0.5},
            {ROPE: {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
        ],
    },
    "config_mismatch": {
        "llama": [
            {ROPE: {"rope_type": "linear", "factor": [1] * 9}}, {ROPE: {"rope_type": "linear", "factor": -1.0}},
            {ROPE: {"rope_type": "linear", "factor": "2.0"}}, {ROPE: "linear"}, {"rope_scaling": "linear"}, {"rope_scaling": 7},
            {"rope_theta": 0}, {"hidden_size": 33}, {"hidden_size": 10**9}, {"hidden_size": True},
            {"num_hidden_layers": 10**9}, {"num_key_value_heads": 3}, {"head_dim": 16}, {"vocab_size": 20},
            {"tie_word_embeddings": "yes"}, {"eos_token_id": [10**9]}, {"rms_norm_eps": "tiny"}, {"output_attentions": True},
            {"tie_last_hidden_states": False},
        ],
        "qwen2": [{"head_dim": None}, {"num_attention_heads": 0}],
        "qwen3": [{"head_dim": 0}],
        "gpt2": [{"n_inner": 96}, {"add_cross_attention": True}],
        "deepseek_v2": [{"q_lora_rank": -1}, {"first_k_dense_replace": 2}],
        "deepseek_v3": [
            {"rope_scaling": ["yarn"]}, {"n_group": None}, {"n_routed_experts": 10**6}, {"num_experts_per_tok": 9},
            {"scoring_func": "softmax"}, {"num_nextn_predict_layers": 9}, {"num_nextn_predict_layers": "one"},
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize(("code", "kind"), [(code, kind) for code, kinds in REFUSED.items() for kind in kinds])
def test_a_config_that_cannot_be_right_is_refused(code: str, kind: str, tmp_path: Path) -> None:
    upload(tmp_path, kind)
    whole = json.loads((tmp_path / "config.json").read_text())
    for wrong in REFUSED[code][kind]:
        (tmp_path / "config.json").write_text(json.dumps({**whole, **wrong}))
        assert code in reasons(tmp_path), wrong


def test_a_router_that_chooses_as_stock_code_cannot_is_refused_when_it_comes_in(tmp_path: Path) -> None:
    model = upload(tmp_path, "deepseek_v2", topk_method="noaux_tc")
    with pytest.raises(UnboundLocalError):
        model(torch.arange(3, 9)[None])
    assert list(reasons(tmp_path)) == ["unsupported_architecture"]


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_stock_config(kind: str) -> None:
    stock, family = CONFIG_MAPPING[kind](), FAMILIES[kind]
    for key, default, _ in family.keys.values():
        assert default in (None, getattr(stock, key)), key
    assert stock.tie_word_embeddings == family.tied
    assert all(hasattr(stock, key) for key in (family.activation, *family.fractions))
