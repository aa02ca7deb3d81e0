"""Small random models of large ones' shapes, each with a tokenizer: real modelling code that a CPU trains in minutes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Tokenizer

from compression.schema.recipe.prune import AxisRatios, Prune
from compression.schema.recipe.recipe import Prepare, Recipe

END = "<|endoftext|>"
VOCABULARY = 4096
EPOCHS, RATE = 8, 2e-3
"""Learning rate and epochs of their first training."""
SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    # Latent attention, a dense layer and then experts with a shared one, groups of them with a bias in the router.
    "deepseek-v3": (
        "deepseek_v3",
        {
            "hidden_size": 256,
            "intermediate_size": 704,
            "moe_intermediate_size": 128,
            "num_hidden_layers": 5,
            "first_k_dense_replace": 1,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "q_lora_rank": 96,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "n_routed_experts": 16,
            "n_shared_experts": 1,
            "num_experts_per_tok": 4,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
        {"experts": 0.25, "expert_ffn": 0.25, "ffn": 0.3, "kv_rank": 0.25, "query_rank": 0.3},
    ),
    # Qwen2, as DeepSeek-R1-Distill-Qwen is: grouped queries with biases; the smallest of them has a head of its own.
    "r1-distill-qwen": (
        "qwen2",
        {
            "hidden_size": 256,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
        },
        {"ffn": 0.5},
    ),
}
"""Name → stock model type, widths, and the ratios of a cut of some 30 %."""


def recipe(name: str, whole: Recipe) -> Recipe:
    """Return the recipe for such a model: `prepare` trains it, since a score is needed that a cut can lose."""
    prune = Prune(ratio=AxisRatios(**SHAPES[name][2]), multiple=32)
    return whole.model_copy(update={"prepare": Prepare(epochs=EPOCHS, rate=RATE), "prune": prune})


def write_tokenizer(kind: str, texts: Iterable[str], folder: Path) -> Tokenizer:
    """Write a tokenizer of a family's rules with byte pairs learned from `texts`, and return it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "qwen2":  # stock code takes this family's rules whatever the file says
        rules = Qwen2Tokenizer().backend_tokenizer
        backend.normalizer, backend.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END).save_pretrained(folder)
    return backend


def write(name: str, texts: Iterable[str], folder: Path, seed: int) -> None:
    """Write the folder of an untrained model of that shape, with a tokenizer of its own."""
    kind, widths, _ = SHAPES[name]
    backend = write_tokenizer(kind, texts, folder)
    torch.manual_seed(seed)
    ends = {"bos_token_id": None, "eos_token_id": backend.token_to_id(END), "pad_token_id": None}
    config = CONFIG_MAPPING[kind](vocab_size=backend.get_vocab_size(), max_position_embeddings=2048, **ends, **widths)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
