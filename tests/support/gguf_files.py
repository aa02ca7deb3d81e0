"""GGUF files of tiny decoders, written by the field's own package as llama.cpp's converter lays them out."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind, GGUFWriter
from transformers import PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

CONTROL = "<|end|>"
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]


def tokens() -> list[str]:
    return [CONTROL, *sorted(bytes_to_unicode().values()), *(left + right for left, right in MERGES)]


def pieces() -> dict[str, float]:
    """Return a vocabulary of SentencePiece's kind, with scores: its own tokens, all bytes, letters, and what is merged."""
    own = dict.fromkeys(["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256))], 0.0)
    return own | {"th": -1.0, "the": -2.0, "▁the": -3.0, "is": -4.0} | dict.fromkeys("▁theis", -10.0)


def permuted(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Order the rows of queries and keys as llama.cpp's rotary embedding wants them: neighbours are a pair."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(model: PreTrainedModel, path: Path, kind: Kind = Kind.Q8_0, *, sentencepiece: bool = False, **more: Any) -> Path:
    """Write a model; its matrices become what the file holds, so that it answers as the file should.

    more: methods of the writer with what they are called with, in the place of what is said otherwise.
    """
    config = model.config
    arch: str = config.model_type
    writer = GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if arch == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_vocab_size(config.vocab_size)
    if arch == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    if arch == "qwen3":
        writer.add_key_length(config.head_dim)
    if arch == "llama" and config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    (_add_pieces if sentencepiece else _add_tokens)(writer, arch)
    for key, value in more.items():
        getattr(writer, key)(*(value if isinstance(value, tuple) else (value,)))
    _add_tensors(writer, model, kind)
    if arch == "llama" and config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(model))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokens(writer: GGUFWriter, arch: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if arch.startswith("qwen") else "smollm")
    writer.add_token_list(tokens())
    writer.add_token_types([3, *[1] * (len(tokens()) - 1)])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)


def _add_pieces(writer: GGUFWriter, arch: str) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*pieces()])
    writer.add_token_scores([*pieces().values()])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(pieces()) - 259)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def divisors(model: PreTrainedModel) -> np.ndarray[Any, Any]:
    """Return by how much a model's frequencies are smaller than if its positions were not scaled."""
    size = model.config.head_dim
    plain = model.config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    return (plain / model.base_model.rotary_emb.inv_freq).numpy().astype(np.float32)


@torch.no_grad()
def _add_tensors(writer: GGUFWriter, model: PreTrainedModel, kind: Kind) -> None:
    config = model.config
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": getattr(config, "num_key_value_heads", 0)}
    for name, parameter in model.named_parameters():
        stem, leaf = name.rsplit(".", 1)
        place = names.get_name(stem)
        assert place is not None, name
        value = parameter.numpy()
        turned = config.model_type == "gpt2" and value.ndim == 2 and place.split(".")[-1].startswith(("attn", "ffn"))
        value = np.ascontiguousarray(value.T if turned else value)
        if value.ndim == 1 or kind == Kind.F32:
            writer.add_tensor(f"{place}.{leaf}", value)
            continue
        packed = gguf.quantize(value, kind)
        read = torch.from_numpy(gguf.dequantize(packed, kind).copy())
        parameter.copy_(read.T if turned else read)
        if config.model_type == "llama" and place.split(".")[-1] in heads:
            packed = permuted(packed, heads[place.split(".")[-1]])  # whole rows move, blocks lie within rows
        writer.add_tensor(f"{place}.{leaf}", packed, raw_dtype=kind)
