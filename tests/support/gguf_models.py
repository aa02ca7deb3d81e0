"""Tiny decoders whose rows divide into GGUF's blocks, and real tokenizers of byte pairs, trained in milliseconds."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

TEXTS = [(Path(__file__).parents[2] / "docs" / "method.md").read_text("utf-8"), "one  1   22\n    x  = 333\n" * 50]
PIECES, ROWS = 600, 608  #: tokens of a tokenizer, and rows of a model's table
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
DIGITS_TOGETHER, DIGITS_ALONE = r"\p{N}{1,3}", r"\p{N}"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def expression(digits: str) -> str:
    """Return how Llama 3 (three digits together) and Qwen2 (each alone) split a text."""
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def decoder(family: str, **changes: Any) -> PreTrainedModel:
    """Make a model with random weights whose norms and biases all differ, so that losing one shows."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"vocab_size": ROWS, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1}
    if family == "gpt2":
        settings |= {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    else:
        settings |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 128}
        settings |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    if family in ("llama", "mistral", "qwen3"):
        settings["head_dim"] = 16
    if family == "mistral":
        settings["sliding_window"] = None
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**{**settings, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def byte_pairs(folder: Path, split: Any = None, *, begins: bool = False, ignore_merges: bool = False) -> Tokenizer:
    """Train a tokenizer of bytes on a page of the documentation. split: an expression or a whole
    pre-tokenizer; None: GPT-2's.
    """
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if isinstance(split, str):
        split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), as_bytes])
    backend.pre_tokenizer = split or as_bytes
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how: dict[str, Any] = {"special_tokens": [BOS, EOS], "initial_alphabet": alphabet, "show_progress": False}
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=PIECES, **how))
    return _saved(backend, folder, begins=begins)


def sentence_pieces(folder: Path, *, prefix: bool) -> Tokenizer:
    """Make a tokenizer as Llama 2 has it: spaces are letters, unknown letters become tokens of single bytes."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=PIECES - 260, show_progress=False))
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    made = ["".join(merge) for merge in merges]
    letters = sorted(trained.get_vocab().keys() - set(made))
    pieces = dict.fromkeys([UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *made, *letters])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    spaces = [normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *spaces] if prefix else spaces)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return _saved(backend, folder, begins=True, unk_token=UNKNOWN)


def _saved(backend: Tokenizer, folder: Path, *, begins: bool, **names: str) -> Tokenizer:
    if begins:
        number = backend.token_to_id(BOS)
        backend.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, number)])
    whole = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS, chat_template=TEMPLATE, **names)
    whole.save_pretrained(folder)
    return backend
