"""Tiny decoders with random weights, made in milliseconds, as stock transformers saves them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

STEMS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gpt2": "GPT2"}
STEMS |= {"deepseek_v2": "DeepseekV2", "deepseek_v3": "DeepseekV3"}
VOCABULARY = 96
END, UNKNOWN = "<|end|>", "<|unknown|>"


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}
LATENT |= {"v_head_dim": 8, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2}
LATENT |= {"first_k_dense_replace": 1}
GROUPS = {"n_group": 2, "topk_group": 1}


def tiny_config(kind: str, **changes: object) -> PretrainedConfig:
    settings: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    settings |= GPT2 if kind == "gpt2" else {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    if kind.startswith("deepseek"):
        del settings["head_dim"]
        settings |= {**LATENT, **GROUPS, "n_shared_experts": 2}
    return CONFIG_MAPPING[kind](**{**settings, **changes})


def tiny(kind: str, head: str = "ForCausalLM", **changes: object) -> PreTrainedModel:
    """Make a model whose norms and biases are not all alike, so that losing one shows."""
    torch.manual_seed(1)
    stem = STEMS[kind] + ("LMHeadModel" if kind == "gpt2" and head == "ForCausalLM" else head)
    model: PreTrainedModel = getattr(transformers, stem)(tiny_config(kind, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def saved(model: PreTrainedModel, folder: Path, *, largest: int = 20_000) -> Path:
    model.save_pretrained(folder, max_shard_size=largest)
    return folder


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def reopened(model: PreTrainedModel, folder: Path, auto: Any = None, **how: Any) -> PreTrainedModel:
    """Save a model; return what stock code opens of it, by its own class or another, nothing missing and nothing left over."""
    model.save_pretrained(folder)
    opened, report = (auto or type(model)).from_pretrained(folder, output_loading_info=True, **how)
    assert (type(opened), *report["missing_keys"], *report["unexpected_keys"]) == (type(model),)
    return opened.eval()


def with_prediction(folder: Path) -> list[str]:
    """Give a saved DeepSeek-V3 a layer that predicts one token more, as its authors publish it; return its tensors' names."""
    path = folder / "model.safetensors"
    whole, said = load_file(path), json.loads((folder / "config.json").read_text())
    last, h = said["num_hidden_layers"], said["hidden_size"]
    own = f"model.layers.{last}."
    layer = {name.replace(f".{last - 1}.", f".{last}.", 1): value for name, value in whole.items() if f".{last - 1}." in name}
    layer = {name: value for name, value in layer.items() if name.startswith(own)}
    table = whole["model.embed_tokens.weight"]
    layer |= {own + name: table for name in ("embed_tokens.weight", "shared_head.head.weight")}
    layer |= {f"{own}{name}.weight": torch.ones(h).to(table) for name in ("enorm", "hnorm", "shared_head.norm")}
    layer[f"{own}eh_proj.weight"] = torch.ones(h, 2 * h).to(table)
    save_file({**whole, **{name: value.clone() for name, value in layer.items()}}, path, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**said, "num_nextn_predict_layers": 1}))
    return sorted(layer)


def write_tokenizer(folder: Path, words: list[str], **names: str) -> Path:
    """Write a tokenizer as many decoders have it: nothing is put before or behind a text, and no token pads.

    words: the vocabulary, `END` and `UNKNOWN` first; names: special tokens by their keys, beside these two.
    """
    tokenizer = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token=UNKNOWN, **names).save_pretrained(folder)
    return folder
