"""Names of each decoder family, by stock transformers 5.24: config.json's keys, and tensors with the widths that shrink."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from compression.models.architectures.decoder_configs import Biases
from compression.models.architectures.pruning_groups import Tensors, Width
from compression.models.architectures.tensor_names import MOST_CHANNELS, pair
from compression.schema.report.measurements import Shape

Numbers = dict[str, int]
"""Whole numbers of a config, by their meaning."""
EXPERTS = re.compile(r"(?P<place>.+\.experts)\.(?P<part>gate_up_proj|down_proj)$")
PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
CORRECTION = "e_score_correction_bias"
"""The correction that a router adds to its scores before it chooses: a buffer, not a parameter."""
MOST_LAYERS = 256
MOST_AHEAD = 8
"""Layers for the prediction of several tokens; their authors have one."""
MOST_POSITIONS = 1 << 24
BARE, LANGUAGE, CLASSIFIER, READER = "Model", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering"
FRACTIONS = ("rms_norm_eps", "attention_dropout", "initializer_range")
ROTARY: dict[str, tuple[str, int | None, int]] = {
    "hidden": ("hidden_size", None, MOST_CHANNELS),
    "layers": ("num_hidden_layers", None, MOST_LAYERS),
    "heads": ("num_attention_heads", None, 1_024),
    "ffn": ("intermediate_size", None, 131_072),
    "vocabulary": ("vocab_size", None, 2_000_000),
    "positions": ("max_position_embeddings", None, MOST_POSITIONS),
}
LATENT: dict[str, tuple[str, int | None, int]] = {
    **ROTARY,
    "kv_rank": ("kv_lora_rank", 512, MOST_CHANNELS),
    "rope": ("qk_rope_head_dim", 64, 1_024),
    "nope": ("qk_nope_head_dim", 128, 1_024),
    "value": ("v_head_dim", 128, 1_024),
    "experts": ("n_routed_experts", None, 1_024),
    "shared": ("n_shared_experts", None, 64),
    "expert_ffn": ("moe_intermediate_size", None, MOST_CHANNELS),
    "chosen": ("num_experts_per_tok", None, 1_024),
}


def _given(config: Mapping[str, Any], key: str, otherwise: object) -> object:
    value = config.get(key)
    return otherwise if value is None else value


def _grouped(
    config: Mapping[str, Any], found: Numbers, *, null_head: bool = False, **defaults: int
) -> Iterator[tuple[str, str, object]]:
    """Yield (meaning, key, value) for the numbers that may be null in a config with grouped heads.

    null_head: whether stock layers use a null head_dim as a width. defaults: for omitted numbers; null ones are computed.
    """
    config = {**defaults, **config}
    yield "groups", "num_key_value_heads", _given(config, "num_key_value_heads", found.get("heads"))
    size = found["hidden"] // found["heads"] if {"hidden", "heads"} <= found.keys() else None
    yield "head", "head_dim", config.get("head_dim", size) if null_head else _given(config, "head_dim", size)
    yield from _biases(config)


def _biases(config: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    for key in ("attention_bias", "mlp_bias"):
        yield key, key, int(config.get(key) is True)


def _latent(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    third = config.get("model_type") == "deepseek_v3"
    groups = config.get("num_key_value_heads", 128 if third else None)
    yield "groups", "num_key_value_heads", found.get("heads") if groups is None else groups
    rank = config.get("q_lora_rank", 1536)
    yield "query_rank", "q_lora_rank", 0 if rank is None else rank
    yield "dense", "first_k_dense_replace", _given(config, "first_k_dense_replace", 3 if third else 0)
    # V2's router uses groups in only one of its methods.
    grouped = third or config.get("topk_method") == "group_limited_greedy"
    for meaning, key, stock in (("router_groups", "n_group", 8), ("chosen_groups", "topk_group", 4)):
        yield meaning, key, config.get(key, stock if third else None) if grouped else 1
    yield "ahead", "num_nextn_predict_layers", _given(config, "num_nextn_predict_layers", 0) if third else 0
    yield from _biases(config)


def _gpt2_numbers(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    yield "ffn", "n_inner", _given(config, "n_inner", 4 * found.get("hidden", 0))


def _linear(name: str, rows: int, columns: int, *, bias: bool = False) -> Tensors:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def _gated(name: str, hidden: int, units: int, *, bias: bool = False) -> Tensors:
    return {
        **_linear(f"{name}.gate_proj", units, hidden, bias=bias),
        **_linear(f"{name}.up_proj", units, hidden, bias=bias),
        **_linear(f"{name}.down_proj", hidden, units, bias=bias),
    }


def _hidden(shape: Shape) -> Width:
    return Width(shape.hidden, "hidden")


def _norms(shape: Shape) -> Tensors:
    return {f"{name}.weight": (_hidden(shape),) for name in ("input_layernorm", "post_attention_layernorm")}


def _rotary(shape: Shape, layer: int, biases: Biases, *, query_bias: bool = False, head_norms: bool = False) -> Tensors:
    """Return the tensors of a layer of grouped heads; query_bias: queries, keys and values always have biases."""
    bias, hidden, size = "attention" in biases, _hidden(shape), shape.head_size or 0
    groups = shape.groups or shape.heads
    queries = Width(groups, "heads", layer, unit_size=shape.heads // groups * size)
    keys = Width(groups, "heads", layer, unit_size=size)
    return {
        **_norms(shape),
        **_linear("self_attn.q_proj", queries, hidden, bias=bias or query_bias),
        **_linear("self_attn.k_proj", keys, hidden, bias=bias or query_bias),
        **_linear("self_attn.v_proj", keys, hidden, bias=bias or query_bias),
        **_linear("self_attn.o_proj", hidden, queries, bias=bias),
        **_gated("mlp", hidden, Width(shape.ffn, "ffn", layer), bias="mlp" in biases),
        **({f"self_attn.{name}.weight": (size,) for name in ("q_norm", "k_norm")} if head_norms else {}),
    }


def _latent_attention(shape: Shape, layer: int, *, bias: bool) -> Tensors:
    latent, size = shape.latent, shape.head_size or 0
    assert latent is not None, "a shape of the family"  # noqa: S101
    hidden, kv = _hidden(shape), Width(latent.kv, "kv_rank", layer)

    def heads(size: int) -> Width:
        return Width(shape.heads, "heads", layer, unit_size=size)

    if latent.query is None:
        queries = _linear("self_attn.q_proj", heads(size), hidden)
    else:
        rank = Width(latent.query, "query_rank", layer)
        queries = {
            **_linear("self_attn.q_a_proj", rank, hidden, bias=bias),
            "self_attn.q_a_layernorm.weight": (rank,),
            **_linear("self_attn.q_b_proj", heads(size), rank),
        }
    return {
        **queries,
        # After the rank come the channels of the one key with the position, which all heads share.
        **_linear("self_attn.kv_a_proj_with_mqa", Width(latent.kv, "kv_rank", layer, tail=latent.rope), hidden, bias=bias),
        "self_attn.kv_a_layernorm.weight": (kv,),
        **_linear("self_attn.kv_b_proj", heads(size - latent.rope + latent.value), kv),
        **_linear("self_attn.o_proj", hidden, heads(latent.value), bias=bias),
    }


def _deepseek(shape: Shape, layer: int, biases: Biases) -> Tensors:
    experts, hidden, bias = shape.experts, _hidden(shape), "mlp" in biases
    assert experts is not None, "a shape of the family"  # noqa: S101
    out = _norms(shape) | _latent_attention(shape, layer, bias="attention" in biases)
    if layer < experts.dense_layers:
        return out | _gated("mlp", hidden, Width(shape.ffn, "ffn", layer), bias=bias)
    count = Width(experts.count, "experts", layer)
    gates_and_ups = Width(experts.ffn, "expert_ffn", layer, repeats=2)
    return {
        **out,
        **_gated("mlp.shared_experts", hidden, Width(experts.shared, "shared", layer), bias=bias),
        "mlp.gate.weight": (count, hidden),
        "mlp.experts.gate_up_proj": (count, gates_and_ups, hidden),
        "mlp.experts.down_proj": (count, hidden, Width(experts.ffn, "expert_ffn", layer)),
    }


def _deepseek_v3(shape: Shape, layer: int, biases: Biases) -> Tensors:
    out = _deepseek(shape, layer, biases)
    if "mlp.gate.weight" in out:
        out[f"mlp.gate.{CORRECTION}"] = out["mlp.gate.weight"][:1]
    return out


def stored_parts(name: str, shape: tuple[int, ...]) -> Tensors:
    """Return the checkpoint tensors that store a stock tensor, in its rows' order: one, or each fused expert's own."""
    fused = EXPERTS.match(name) if len(shape) == 3 else None
    if fused is None:
        return {name: shape}
    parts = PARTS[fused["part"]]
    size = (shape[1] // len(parts), shape[2])
    return {f"{fused['place']}.{number}.{part}.weight": size for number in range(shape[0]) for part in parts}


def _ahead(shape: Shape, ahead: int, biases: Biases) -> Mapping[str, Tensors]:
    """Return the layers that predict tokens further ahead, each by the matrix that makes its input: no other layer has one."""
    h, table = shape.hidden, (shape.vocabulary, shape.hidden)
    own: Tensors = {
        **{f"{name}.weight": table for name in ("embed_tokens", "shared_head.head")},
        **{f"{name}.weight": (h,) for name in ("enorm", "hnorm", "shared_head.norm")},
        "eh_proj.weight": (h, 2 * h),
    }
    out: dict[str, Tensors] = {}
    for number in range(shape.layers, shape.layers + ahead):
        whole = stored({**_deepseek_v3(shape, number, biases), **own})
        out[f"layers.{number}.eh_proj.weight"] = {f"layers.{number}.{name}": size for name, size in whole.items()}
    return out


def stored(tensors: Tensors) -> Tensors:
    """Return the checkpoint tensors that store these tensors of a stock model."""
    return {part: size for name, shape in tensors.items() for part, size in stored_parts(name, shape).items()}


def _gpt2(shape: Shape, layer: int, _biases: Biases) -> Tensors:
    h, f, size = _hidden(shape), Width(shape.ffn, "ffn", layer), shape.hidden // shape.heads
    heads = Width(shape.heads, "heads", layer, unit_size=size)
    packed = Width(shape.heads, "heads", layer, unit_size=size, repeats=3)  # queries, keys, values
    # Stock code transposes these matrices (Conv1D): inputs come first, so the bias has their last width.
    turned = {"attn.c_attn": (h, packed), "attn.c_proj": (heads, h), "mlp.c_fc": (h, f), "mlp.c_proj": (f, h)}
    out: Tensors = {**pair("ln_1", (h,)), **pair("ln_2", (h,))}
    for name, widths in turned.items():
        out |= {f"{name}.weight": widths, f"{name}.bias": widths[1:]}
    return out


def _rotary_outer(shape: Shape, _positions: int) -> Tensors:
    hidden = _hidden(shape)
    return {"embed_tokens.weight": (Width(shape.vocabulary, "vocabulary"), hidden), "norm.weight": (hidden,)}


def _gpt2_outer(shape: Shape, positions: int) -> Tensors:
    h = _hidden(shape)
    tables = {"wte.weight": (Width(shape.vocabulary, "vocabulary"), h), "wpe.weight": (positions, h)}
    return {**tables, **pair("ln_f", (h,))}


def decoder_tensors(kind: str, shape: Shape, positions: int, biases: Biases) -> Tensors:
    """Return the tensors of a bare stock decoder, without its prefix. positions: rows of GPT-2's table."""
    known = FAMILIES[kind]
    out = dict(known.outer(shape, positions))
    for number in range(shape.layers):
        out |= {f"{known.block}.{number}.{name}": size for name, size in known.layer(shape, number, biases).items()}
    return out


def _frequencies(shape: Shape, _positions: int) -> Tensors:
    """Return the buffer that older versions saved with each layer that has rotary positions."""
    return {"self_attn.rotary_emb.inv_freq": ((shape.latent.rope if shape.latent else shape.head_size or 0) // 2,)}


@dataclass(frozen=True)
class TensorLayout:
    """One family's names."""

    stem: str
    keys: Mapping[str, tuple[str, int | None, int]]  #: meaning → key, its stock default if it may lack, the largest value
    more: Callable[[Mapping[str, Any], Numbers], Iterator[tuple[str, str, object]]]  #: numbers that follow from others if null
    layer: Callable[[Shape, int, Biases], Tensors]  #: the tensors of one layer, without its prefix
    outer: Callable[[Shape, int], Tensors] = _rotary_outer  #: those outside of layers; int: positions
    prefix: str = "model."  #: in all classes with a head but the reader
    block: str = "layers"
    final_norm: str = "norm"
    tables: tuple[str, ...] = ("embed_tokens.weight",)
    language: str = LANGUAGE  #: the suffix of the language model's class
    reader: str | None = None  #: the prefix in the class that answers questions; None if the family has no such class
    tied: bool = False
    activation: str = "hidden_act"
    fractions: tuple[str, ...] = FRACTIONS
    fixed: Mapping[str, Any] = field(default_factory=dict)
    divided: bool = False
    leftovers: Callable[[Shape, int], Tensors] = _frequencies  #: what a layer may have but stock code does not read
    behind: Callable[[Shape, int, Biases], Mapping[str, Tensors]] = lambda *_: {}  #: unread layers, each by its own tensor

    def heads(self) -> dict[str, str]:
        """Return the stock classes that Lathe accepts, each with its purpose."""
        suffixes = {BARE: BARE, self.language: LANGUAGE, CLASSIFIER: CLASSIFIER}
        suffixes |= {} if self.reader is None else {READER: READER}
        return {f"{self.stem}{suffix}": purpose for suffix, purpose in suffixes.items()}

    def prefix_of(self, purpose: str) -> str:
        """Return the prefix that a class of this purpose gives the names of the bare model's tensors."""
        return self.reader if purpose == READER and self.reader is not None else self.prefix


BODY, TRANSFORMER = "model.", "transformer."  #: prefixes of the bare model's tensors in classes with a head
_qwen_numbers = partial(_grouped, null_head=True, num_key_value_heads=32)
FAMILIES: dict[str, TensorLayout] = {
    "llama": TensorLayout("Llama", ROTARY, _grouped, _rotary, fixed={"pretraining_tp": 1}, divided=True, reader=TRANSFORMER),
    "mistral": TensorLayout("Mistral", ROTARY, partial(_grouped, num_key_value_heads=8), _rotary, reader=BODY),
    "qwen2": TensorLayout("Qwen2", ROTARY, _qwen_numbers, partial(_rotary, query_bias=True), reader=TRANSFORMER),
    "qwen3": TensorLayout(
        "Qwen3", ROTARY, partial(_qwen_numbers, head_dim=128), partial(_rotary, head_norms=True), reader=TRANSFORMER
    ),
    "gpt2": TensorLayout(
        "GPT2",
        {
            "hidden": ("n_embd", 768, MOST_CHANNELS),
            "layers": ("n_layer", 12, MOST_LAYERS),
            "heads": ("n_head", 12, 1_024),
            "vocabulary": ("vocab_size", 50257, 2_000_000),
            "positions": ("n_positions", 1024, 131_072),
        },
        _gpt2_numbers,
        _gpt2,
        _gpt2_outer,
        prefix=TRANSFORMER,
        reader=TRANSFORMER,
        block="h",
        final_norm="ln_f",
        tables=("wte.weight", "wpe.weight"),
        language="LMHeadModel",
        tied=True,
        activation="activation_function",
        fractions=("layer_norm_epsilon", "attn_pdrop", "embd_pdrop", "resid_pdrop", "initializer_range"),
        fixed={"add_cross_attention": False, "scale_attn_weights": True, "reorder_and_upcast_attn": False},
        divided=True,
        # Masks that older versions saved with each layer.
        leftovers=lambda _, positions: {"attn.bias": (1, 1, positions, positions), "attn.masked_bias": ()},
    ),
    "deepseek_v2": TensorLayout(
        "DeepseekV2", LATENT, _latent, _deepseek, fixed={"moe_layer_freq": 1, "scoring_func": "softmax"}, divided=True
    ),
    "deepseek_v3": TensorLayout(
        "DeepseekV3",
        LATENT,
        _latent,
        _deepseek_v3,
        fixed={"moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"},
        behind=_ahead,
    ),
}
"""Layouts by the model_type of config.json."""
