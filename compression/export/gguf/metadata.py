"""Says a decoder's config in GGUF's keys, or why they cannot say it."""

from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGUFWriter
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.registry import adapter_of
from compression.models.files.gguf_names import ARCHITECTURES
from compression.models.files.gguf_rope import TENSOR as DIVISORS

FAMILIES = (*ARCHITECTURES, "mistral")
"""Families that are written, by model_type."""
ALIGNMENT = 64  #: bytes: a cache line, and the widest vector of x86; GGUF's default is 32
TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
"""Names of the approximation of GELU by tanh, which is llama.cpp's."""
SCALINGS = ("default", "linear", "llama3")


def hindrances(config: PretrainedConfig) -> Iterator[str]:
    """Yield what of a config of one of the `FAMILIES` llama.cpp does not compute."""
    gpt2 = config.model_type == "gpt2"
    activation = config.activation_function if gpt2 else config.hidden_act
    if activation not in (TANH if gpt2 else ("silu", "swish")):
        yield f"llama.cpp computes another activation than {activation} in {config.model_type}"
    if gpt2 and config.scale_attn_by_inverse_layer_idx:
        yield "llama.cpp does not divide attention scores by the layer's number"
    if gpt2:
        return
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < config.max_position_embeddings:
        yield f"llama.cpp does not limit attention to {window} tokens in {config.model_type}"
    if config.model_type == "qwen3" and config.attention_bias:
        yield "llama.cpp has no biases in the attention of qwen3"
    scaling = (config.rope_parameters or {}).get("rope_type", "default")
    if scaling not in SCALINGS:
        yield f"positions are scaled by {scaling}, which is not written"


def architecture(model: PreTrainedModel) -> str:
    """Return llama.cpp's architecture of a model of one of the `FAMILIES`.

    Mistral is Llama without its window, Qwen2 is Llama with biases. llama.cpp's own Qwen2 has as many channels of queries as of
    the stream; of a cut one with another number the file is therefore a Llama.
    """
    kind: str = model.config.model_type
    shape = adapter_of(model).shape_of(model.config)
    other = kind == "qwen2" and shape.heads * (shape.head_size or 0) != shape.hidden
    return "llama" if kind == "mistral" or other else kind


def describe(writer: GGUFWriter, model: PreTrainedModel) -> None:
    """Add the keys of an architecture. model: one without `hindrances`."""
    config, shape = model.config, adapter_of(model).shape_of(model.config)
    writer.add_custom_alignment(ALIGNMENT)
    writer.add_block_count(shape.layers)
    writer.add_context_length(adapter_of(model).max_positions(config))
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    if config.model_type == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    size = shape.head_size or shape.hidden // shape.heads
    writer.add_head_count_kv(shape.groups or shape.heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])


def divisors(model: PreTrainedModel) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensor by which Llama 3's frequencies are divided, (head size // 2,) float32; nothing for other scalings."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return {}
    scaled = model.base_model.rotary_emb.inv_freq.detach().cpu().double()
    plain = rope["rope_theta"] ** (-torch.arange(0, 2 * len(scaled), 2).double() / (2 * len(scaled)))
    return {DIVISORS: (plain / scaled).numpy().astype(np.float32)}
