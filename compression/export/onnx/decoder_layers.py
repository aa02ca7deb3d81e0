"""Writes the layers of each decoder family with `decoder_graph`, after the code of transformers 5.24."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig

from compression.export.onnx.decoder_graph import ACTIVATIONS, Body, activation
from compression.export.onnx.moe import routed
from compression.schema.errors import UnsupportedArchitecture

FIXED_TURNS = ("default", "linear", "llama3", "yarn")  #: rotary embeddings whose frequencies do not depend on the text's length
States = Callable[[Body], str]


def writer_of(config: PretrainedConfig) -> States:
    """Return the function that writes a family's last states, (b × s, channels), or raise UnsupportedArchitecture."""
    turns = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    shape = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    for known, cause in (
        (config.model_type in FAMILIES, f"no ONNX file with a cache is written for {config.model_type!r}"),
        (turns in FIXED_TURNS, f"rotary embeddings of the kind {turns!r:.100} change with the text's length"),
        (shape in ACTIVATIONS, f"ONNX files are not written with the activation {shape!r:.100}"),
        (not getattr(config, "add_cross_attention", False), "cross-attention has nothing to look at in a language model"),
    ):
        if not known:
            raise UnsupportedArchitecture(cause, param="config.json")
    return FAMILIES[config.model_type]


def rotary_states(body: Body) -> str:
    """Write Llama, Mistral, Qwen2 and Qwen3, and, with latent attention and experts, DeepSeek-V2 and V3."""
    stack: Any = body.model.base_model
    x = body.look_up(body.ids, stack.embed_tokens)
    for number, layer in enumerate(stack.layers):
        attention: Callable[[Body, str, Any, int], str] = latent if hasattr(layer.self_attn, "kv_b_proj") else grouped
        x = body.node("Add", x, attention(body, rms_norm(body, x, layer.input_layernorm), layer.self_attn, number))
        normed = rms_norm(body, x, layer.post_attention_layernorm)
        if hasattr(layer.mlp, "experts"):
            apart = gated(body, normed, layer.mlp.shared_experts)
            found = body.node("Add", routed(body, normed, layer.mlp), apart)
        else:
            found = gated(body, normed, layer.mlp)
        x = body.node("Add", x, found)
    return rms_norm(body, x, stack.norm)


def gpt2_states(body: Body) -> str:
    """Write GPT-2: LayerNorm, a table of positions, queries, keys and values from one matrix."""
    config = body.config
    stack: Any = body.model.base_model
    places = body.node("Reshape", body.places, body.numbers(-1))
    x = body.node("Add", body.look_up(body.ids, stack.wte), body.look_up(places, stack.wpe))
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    for layer in stack.h:
        packed = body.project(layer_norm(body, x, layer.ln_1), layer.attn.c_attn)
        query, key, value = (body.heads(each, heads, size) for each in body.split(packed, (heads * size,) * 3, axis=1))
        found = body.attend(query, key, value, scale=layer.attn.scaling, window=None, sizes=(heads, heads, size, size))
        x = body.node("Add", x, body.project(found, layer.attn.c_proj))
        inner = activation(body, body.project(layer_norm(body, x, layer.ln_2), layer.mlp.c_fc), config.activation_function)
        x = body.node("Add", x, body.project(inner, layer.mlp.c_proj))
    return layer_norm(body, x, stack.ln_f)


FAMILIES: dict[str, States] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "deepseek_v2", "deepseek_v3"), rotary_states),
    "gpt2": gpt2_states,
}
"""model_type of the stock config → its function."""


def rms_norm(body: Body, x: str, norm: nn.Module) -> str:
    """Write an RMSNorm over the last axis, any shape. ONNX Runtime fuses these nodes to one kernel."""
    squares = body.node("Pow", x, body.number(2.0))
    mean = body.node("ReduceMean", squares, body.numbers(-1), keepdims=1)
    root = body.node("Sqrt", body.node("Add", mean, body.number(norm.variance_epsilon)))  # type: ignore[arg-type]
    return body.node("Mul", body.node("Div", x, root), body.vector(norm, "weight"))


def layer_norm(body: Body, x: str, norm: nn.Module) -> str:
    """Write a LayerNorm over the last axis."""
    scale, shift = body.vector(norm, "weight"), body.vector(norm, "bias")
    return body.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=norm.eps)


def gated(body: Body, x: str, mlp: Any) -> str:
    """Write a gated feed-forward layer: rows -> rows."""
    gate = activation(body, body.project(x, mlp.gate_proj), body.config.hidden_act)
    return body.project(body.node("Mul", gate, body.project(x, mlp.up_proj)), mlp.down_proj)


def grouped(body: Body, x: str, part: Any, number: int) -> str:
    """Write grouped-query attention, in which query heads may share keys and values: rows -> rows."""
    config, size = body.config, part.head_dim
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    stem = f"layers.{number}.self_attn"
    packed = body.project_together(x, {"q": part.q_proj, "k": part.k_proj, "v": part.v_proj}, stem)
    apart = body.heads(packed, heads + 2 * groups, size)
    if hasattr(part, "q_norm"):
        query, key, value = body.split(apart, (heads, groups, groups), axis=1)
        query, key = rms_norm(body, query, part.q_norm), rms_norm(body, key, part.k_norm)
        query, key = turned(body, query, size), turned(body, key, size)
    else:
        moving, value = body.split(apart, (heads + groups, groups), axis=1)
        query, key = body.split(turned(body, moving, size), (heads, groups), axis=1)
    sizes = (heads, groups, size, size)
    found = body.attend(query, key, value, scale=part.scaling, window=_window(config, number), sizes=sizes)
    return body.project(found, part.o_proj)


def latent(body: Body, x: str, part: Any, number: int) -> str:
    """Write DeepSeek's latent attention: rows -> rows. The cache holds each head's own keys and values, expanded once."""
    del number
    heads, plain, rope, value_size = part.num_heads, part.qk_nope_head_dim, part.qk_rope_head_dim, part.v_head_dim
    if part.q_lora_rank is None:
        query = body.project(x, part.q_proj)
    else:
        query = body.project(rms_norm(body, body.project(x, part.q_a_proj), part.q_a_layernorm), part.q_b_proj)
    still, moving = body.split(body.heads(query, heads, plain + rope), (plain, rope), axis=3)
    squeezed, shared = body.split(body.project(x, part.kv_a_proj_with_mqa), (part.kv_lora_rank, rope), axis=1)
    unfolded = body.project(rms_norm(body, squeezed, part.kv_a_layernorm), part.kv_b_proj)
    keys, value = body.split(body.heads(unfolded, heads, plain + value_size), (plain, value_size), axis=3)
    # V2 always rotates neighbours. V3's config states whether it rotates neighbours, or halves as Llama does.
    neighbours = getattr(body.config, "rope_interleave", True)
    moving = turned(body, moving, rope, neighbours=neighbours)
    one = turned(body, body.heads(shared, 1, rope), rope, neighbours=neighbours)
    shape = body.once(("like", heads, rope), lambda: body.node("Shape", moving))
    query = body.node("Concat", still, moving, axis=3)
    key = body.node("Concat", keys, body.node("Expand", one, shape), axis=3)
    sizes = (heads, heads, plain + rope, value_size)
    found = body.attend(query, key, value, scale=part.scaling, window=None, sizes=sizes)
    return body.project(found, part.o_proj)


def turned(body: Body, x: str, size: int, *, neighbours: bool = False) -> str:
    """Rotate pairs of channels by the angles of their positions (rotary embedding): x (b, heads, s, size) -> the same. A pair
    is a channel and the one half a head further, or two neighbours, whose output is in halves, queries and keys alike.
    """
    cosines, sines = _tables(body)
    if neighbours:
        shape = body.node("Concat", body.node("Shape", x, start=0, end=3), body.numbers(size // 2, 2), axis=0)
        apart = body.node("Transpose", body.node("Reshape", x, shape), perm=[0, 1, 2, 4, 3])
        x = body.node("Reshape", apart, body.node("Shape", x))
    first, second = body.split(x, (size // 2, size // 2), axis=3)
    exchanged = body.node("Concat", second, first, axis=3)
    return body.node("Add", body.node("Mul", x, cosines), body.node("Mul", exchanged, sines))


def _tables(body: Body) -> tuple[str, str]:
    """Write cosines of both halves, and sines whose first half is negated, (b, 1, s, size) each."""
    rotary: Any = body.model.base_model.rotary_emb
    with torch.device("cpu"):  # the model's own rotary embedding may have no values
        fresh = type(rotary)(body.config)
    cosines, sines = body.turns(fresh.inv_freq, float(fresh.attention_scaling))
    both = body.once(("cosines",), lambda: body.node("Concat", cosines, cosines, axis=3))
    signed = body.once(("sines",), lambda: body.node("Concat", body.node("Neg", sines), sines, axis=3))
    return both, signed


def _window(config: PretrainedConfig, number: int) -> int | None:
    """Return how many tokens a layer sees, None for all. Ignores config keys that the stock class does not read."""
    limited = config.model_type == "mistral"  # all of its layers
    if config.model_type in ("qwen2", "qwen3"):
        limited = config.layer_types[number] == "sliding_attention"
    return cast(int | None, config.sliding_window if limited else None)
