"""What each family of decoders calls things: the keys of its config.json, and the tensors of its checkpoints.

Names and shapes are those that the stock classes of transformers 5.24 save; tests hold them against these. The fused experts of
DeepSeek's stock code lie in checkpoints one by one, as its authors publish them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from compression.models.architectures.tensor_names import MOST_CHANNELS, Tensors, pair

Numbers = dict[str, int]
"""By what they mean."""
MOST_LAYERS = 256
MOST_AHEAD = 8
"""Layers for the prediction of several tokens; their authors have one."""
MOST_POSITIONS = 1 << 24
BARE, LANGUAGE, CLASSIFIER = "Model", "ForCausalLM", "ForSequenceClassification"
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


@dataclass(frozen=True)
class TensorLayout:
    """One family's names.

    `keys`: the config's whole numbers by what they mean, with the stock default, None where a config must say them, and the
    most that we take. `more`: those that follow from others where they are null. `layer`: the tensors of one layer, without
    its prefix; `outer`: those of the bare model outside of layers. `language`: the suffix of the class that speaks.
    `leftovers`: what a checkpoint may have in a layer that stock code does not read; `behind`: layers behind the last that it
    does not, each by a tensor that no other layer has.
    """

    stem: str
    keys: Mapping[str, tuple[str, int | None, int]]
    more: Callable[[Mapping[str, Any], Numbers], Iterator[tuple[str, str, object]]]
    layer: Callable[[Numbers, int], Tensors]
    outer: Callable[[Numbers], Tensors]
    prefix: str = "model."
    block: str = "layers"
    tables: tuple[str, ...] = ("embed_tokens.weight",)
    language: str = LANGUAGE
    tied: bool = False
    activation: str = "hidden_act"
    fractions: tuple[str, ...] = FRACTIONS
    fixed: Mapping[str, Any] = field(default_factory=dict)
    divided: bool = False
    leftovers: Callable[[Numbers, int], Tensors] = lambda *_: {}
    behind: Callable[[Numbers], Mapping[str, Tensors]] = lambda _: {}

    def heads(self) -> dict[str, str]:
        """Return the stock classes that we take, with what each is for."""
        named = {f"{self.stem}{suffix}": suffix for suffix in (BARE, CLASSIFIER)}
        return {**named, f"{self.stem}{self.language}": LANGUAGE}


def _given(config: Mapping[str, Any], key: str, otherwise: object) -> object:
    value = config.get(key)
    return otherwise if value is None else value


def _grouped(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    """Yield (meaning, key, value) of what may be null in a config with grouped heads."""
    yield "groups", "num_key_value_heads", _given(config, "num_key_value_heads", found.get("heads"))
    size = found["hidden"] // found["heads"] if {"hidden", "heads"} <= found.keys() else None
    yield "head", "head_dim", _given(config, "head_dim", size)
    for key in ("attention_bias", "mlp_bias"):
        yield key, key, int(config.get(key) is True)


def _mistral_numbers(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    # What a file does not say stock configs have a number for; what it says to be null they reckon.
    yield from _grouped({"num_key_value_heads": 8, **config}, found)


def _qwen2_numbers(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    yield from _qwen({"num_key_value_heads": 32, **config}, found)


def _qwen3_numbers(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    yield from _qwen({"num_key_value_heads": 32, "head_dim": 128, **config}, found)


def _qwen(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    for meaning, key, value in _grouped(config, found):
        # Stock layers take a null for a width.
        yield meaning, key, config.get(key, value) if key == "head_dim" else value


def _latent(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    third = config.get("model_type") == "deepseek_v3"
    said = {"num_key_value_heads": 128, **config} if third else config
    yield "groups", "num_key_value_heads", _given(said, "num_key_value_heads", found.get("heads"))
    rank = config.get("q_lora_rank", 1536)
    yield "query_rank", "q_lora_rank", 0 if rank is None else rank
    yield "dense", "first_k_dense_replace", _given(config, "first_k_dense_replace", 3 if third else 0)
    # V2's router looks at groups by one of its methods only.
    grouped = third or config.get("topk_method") == "group_limited_greedy"
    for meaning, key, stock in (("router_groups", "n_group", 8), ("chosen_groups", "topk_group", 4)):
        yield meaning, key, config.get(key, stock if third else None) if grouped else 1
    yield "ahead", "num_nextn_predict_layers", _given(config, "num_nextn_predict_layers", 0) if third else 0
    for key in ("attention_bias", "mlp_bias"):
        yield key, key, int(config.get(key) is True)


def _gpt2_numbers(config: Mapping[str, Any], found: Numbers) -> Iterator[tuple[str, str, object]]:
    yield "ffn", "n_inner", _given(config, "n_inner", 4 * found.get("hidden", 0))


def _linear(name: str, rows: int, columns: int, bias: int = 0) -> Tensors:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def _gated(name: str, hidden: int, ffn: int, bias: int = 0) -> Tensors:
    return {
        **_linear(f"{name}.gate_proj", ffn, hidden, bias),
        **_linear(f"{name}.up_proj", ffn, hidden, bias),
        **_linear(f"{name}.down_proj", hidden, ffn, bias),
    }


def _norms(n: Numbers) -> Tensors:
    return {f"{name}.weight": (n["hidden"],) for name in ("input_layernorm", "post_attention_layernorm")}


def _attention(n: Numbers, inner: int, outer: int) -> Tensors:
    queries, values, h = n["heads"] * n["head"], n["groups"] * n["head"], n["hidden"]
    return {
        **_linear("self_attn.q_proj", queries, h, inner),
        **_linear("self_attn.k_proj", values, h, inner),
        **_linear("self_attn.v_proj", values, h, inner),
        **_linear("self_attn.o_proj", h, queries, outer),
    }


def _llama(n: Numbers, _layer: int) -> Tensors:
    bias = n["attention_bias"]
    return _norms(n) | _attention(n, bias, bias) | _gated("mlp", n["hidden"], n["ffn"], n["mlp_bias"])


def _mistral(n: Numbers, _layer: int) -> Tensors:
    return _norms(n) | _attention(n, 0, 0) | _gated("mlp", n["hidden"], n["ffn"])


def _qwen2(n: Numbers, _layer: int) -> Tensors:
    return _norms(n) | _attention(n, 1, 0) | _gated("mlp", n["hidden"], n["ffn"])


def _qwen3(n: Numbers, _layer: int) -> Tensors:
    bias = n["attention_bias"]
    norms = {f"self_attn.{name}.weight": (n["head"],) for name in ("q_norm", "k_norm")}
    return _norms(n) | norms | _attention(n, bias, bias) | _gated("mlp", n["hidden"], n["ffn"])


def _latent_attention(n: Numbers) -> Tensors:
    h, heads, rank, bias = n["hidden"], n["heads"], n["query_rank"], n["attention_bias"]
    queries = heads * (n["nope"] + n["rope"])
    ranked = {
        **_linear("self_attn.q_a_proj", rank, h, bias),
        "self_attn.q_a_layernorm.weight": (rank,),
        **_linear("self_attn.q_b_proj", queries, rank),
    }
    return {
        **(ranked if rank else _linear("self_attn.q_proj", queries, h)),
        **_linear("self_attn.kv_a_proj_with_mqa", n["kv_rank"] + n["rope"], h, bias),
        "self_attn.kv_a_layernorm.weight": (n["kv_rank"],),
        **_linear("self_attn.kv_b_proj", heads * (n["nope"] + n["value"]), n["kv_rank"]),
        **_linear("self_attn.o_proj", h, heads * n["value"], bias),
    }


def _deepseek(n: Numbers, layer: int) -> Tensors:
    out = _norms(n) | _latent_attention(n)
    if layer < n["dense"]:
        return out | _gated("mlp", n["hidden"], n["ffn"], n["mlp_bias"])
    out |= _gated("mlp.shared_experts", n["hidden"], n["shared"] * n["expert_ffn"], n["mlp_bias"])
    out["mlp.gate.weight"] = (n["experts"], n["hidden"])
    for expert in range(n["experts"]):
        out |= _gated(f"mlp.experts.{expert}", n["hidden"], n["expert_ffn"])
    return out


def _deepseek_v3(n: Numbers, layer: int) -> Tensors:
    out = _deepseek({**n, "mlp_bias": 0}, layer)
    if layer >= n["dense"]:
        out["mlp.gate.e_score_correction_bias"] = (n["experts"],)
    return out


def _ahead(n: Numbers) -> Mapping[str, Tensors]:
    """Return the layers that predict tokens further ahead: each a whole one, with an input and an output of its own.

    Each is known by the matrix that makes its input: a layer too many for the config has none.
    """
    h, table = n["hidden"], (n["vocabulary"], n["hidden"])
    own: Tensors = {
        **{f"{name}.weight": table for name in ("embed_tokens", "shared_head.head")},
        **{f"{name}.weight": (h,) for name in ("enorm", "hnorm", "shared_head.norm")},
        "eh_proj.weight": (h, 2 * h),
    }
    out: dict[str, Tensors] = {}
    for number in range(n["layers"], n["layers"] + n["ahead"]):
        whole = {**_deepseek_v3(n, number), **own}
        out[f"layers.{number}.eh_proj.weight"] = {f"layers.{number}.{name}": shape for name, shape in whole.items()}
    return out


def _gpt2(n: Numbers, _layer: int) -> Tensors:
    h, f = n["hidden"], n["ffn"]
    # Stock code keeps these matrices the other way round (Conv1D): inputs first, so the bias has their last width.
    turned = {"attn.c_attn": (h, 3 * h), "attn.c_proj": (h, h), "mlp.c_fc": (h, f), "mlp.c_proj": (f, h)}
    out: Tensors = {**pair("ln_1", (h,)), **pair("ln_2", (h,))}
    for name, shape in turned.items():
        out |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
    return out


def _rotary_outer(n: Numbers) -> Tensors:
    return {"embed_tokens.weight": (n["vocabulary"], n["hidden"]), "norm.weight": (n["hidden"],)}


def _gpt2_outer(n: Numbers) -> Tensors:
    h = n["hidden"]
    return {"wte.weight": (n["vocabulary"], h), "wpe.weight": (n["positions"], h), **pair("ln_f", (h,))}


def _frequencies(width: str) -> Callable[[Numbers, int], Tensors]:
    """Name the buffer that older versions saved with each layer whose positions turn. width: what of a head turns."""
    return lambda n, _: {"self_attn.rotary_emb.inv_freq": (n[width] // 2,)}


DEEPSEEK_V2 = TensorLayout(
    "DeepseekV2",
    LATENT,
    _latent,
    _deepseek,
    _rotary_outer,
    fixed={"moe_layer_freq": 1, "scoring_func": "softmax"},
    divided=True,
    leftovers=_frequencies("rope"),
)
FAMILIES: dict[str, TensorLayout] = {
    "llama": TensorLayout(
        "Llama",
        ROTARY,
        _grouped,
        _llama,
        _rotary_outer,
        fixed={"pretraining_tp": 1},
        divided=True,
        leftovers=_frequencies("head"),
    ),
    "mistral": TensorLayout("Mistral", ROTARY, _mistral_numbers, _mistral, _rotary_outer, leftovers=_frequencies("head")),
    "qwen2": TensorLayout("Qwen2", ROTARY, _qwen2_numbers, _qwen2, _rotary_outer, leftovers=_frequencies("head")),
    "qwen3": TensorLayout("Qwen3", ROTARY, _qwen3_numbers, _qwen3, _rotary_outer, leftovers=_frequencies("head")),
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
        prefix="transformer.",
        block="h",
        tables=("wte.weight", "wpe.weight"),
        language="LMHeadModel",
        tied=True,
        activation="activation_function",
        fractions=("layer_norm_epsilon", "attn_pdrop", "embd_pdrop", "resid_pdrop", "initializer_range"),
        fixed={"add_cross_attention": False, "scale_attn_weights": True, "reorder_and_upcast_attn": False},
        divided=True,
        # Masks that older versions saved with each layer.
        leftovers=lambda n, _: {"attn.bias": (1, 1, n["positions"], n["positions"]), "attn.masked_bias": ()},
    ),
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": TensorLayout(
        "DeepseekV3",
        LATENT,
        _latent,
        _deepseek_v3,
        _rotary_outer,
        fixed={"moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"},
        leftovers=_frequencies("rope"),
        behind=_ahead,
    ),
}
"""By the model_type of config.json."""
