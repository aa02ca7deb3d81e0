"""Tiny causal models of every family, tokenizers of bytes, made in milliseconds; and what is counted of tensors meanwhile."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from compression.modalities.text.causal_lm.documents import TokenizedDocuments, read

BOS, EOS = "<s>", "</s>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = len(ALPHABET) + 4
"""Every byte, two pairs of them, and the two special tokens."""
TEXTS = ["the cat sat on the mat", "Æther — naïve 🦊 fox", "then a long line that goes on and on for a while", "no"]
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gpt2", "deepseek_v2", "deepseek_v3")


def tokenizer(*, bos: bool = False, eos: bool = False) -> PreTrainedTokenizerFast:
    """Byte pairs without many pairs: nearly every byte of a text is a token."""
    merged = [("t", "h"), ("th", "e")]
    vocabulary = {piece: number for number, piece in enumerate([*ALPHABET, *("".join(pair) for pair in merged)])}
    backend = Tokenizer(models.BPE(vocabulary, merged))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([BOS, EOS])
    special = [(name, backend.token_to_id(name)) for name in (BOS, EOS)]
    form = f"{BOS + ' ' if bos else ''}$A{' ' + EOS if eos else ''}"
    backend.post_processor = TemplateProcessing(single=form, pair=f"{form} $B", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS)


def documents(texts: list[str] = TEXTS, *, bos: bool = True) -> TokenizedDocuments:
    return read(texts, tokenizer(bos=bos))


def model(family: str = "llama", **changes: object) -> PreTrainedModel:
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family == "mistral":
        settings["sliding_window"] = 5
    if family.startswith("deepseek"):
        settings |= {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8}
        settings |= {"qk_nope_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        settings |= {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
    if family == "gpt2":
        settings = {name: settings[name] for name in ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id")}
        settings |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    torch.manual_seed(0)
    found: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**{**settings, **changes}))
    return found.eval()


class Largest(TorchDispatchMode):
    """Notes the most elements that a tensor of floating point had, whoever made it, also in a backward pass."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tree_leaves(out) if isinstance(one, Tensor) and one.is_floating_point()]
        self.elements = max([self.elements, *sizes])
        return out


def parameters(part: Any) -> list[nn.Parameter]:
    return list(part.parameters())
