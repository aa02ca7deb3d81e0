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
from tests.support.decoder_models import GPT2, GROUPS, LATENT, SIZES

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
    settings: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None}
    settings |= GPT2 if family == "gpt2" else {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
    if family == "mistral":
        settings["sliding_window"] = 5
    if family.startswith("deepseek"):
        settings |= {**LATENT, **GROUPS, "q_lora_rank": 16, "qk_rope_head_dim": 8}
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
