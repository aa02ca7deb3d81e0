"""Tiny decoders of every family, random and made in milliseconds, and the whole model with parts of it silenced by hooks."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from compression.models.adapters.registry import decoder_of
from compression.models.adapters.structure import PruningPlan
from tests.support import decoder_models
from tests.support.decoder_models import SIZES

LAYERS, HIDDEN, FFN, WORDS, PADDING = 3, 32, 48, 61, 0
COMMON: dict[str, Any] = {"vocab_size": WORDS, "pad_token_id": PADDING, "bos_token_id": 1, "eos_token_id": None}
COMMON |= {**SIZES, "num_hidden_layers": LAYERS, "initializer_range": 0.2}
GATED: dict[str, Any] = {"intermediate_size": FFN, "num_key_value_heads": 2}
LATENT = {**decoder_models.LATENT, "intermediate_size": FFN, "kv_lora_rank": 12, "q_lora_rank": 16, "n_routed_experts": 8}
LATENT |= {"qk_nope_head_dim": 6, "v_head_dim": 10, "n_shared_experts": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {**GATED, "tie_word_embeddings": True},
    "llama-wide": {**GATED, "head_dim": 12, "attention_bias": True, "mlp_bias": True},
    "mistral": {**GATED, "sliding_window": 4},
    "qwen2": {**GATED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {**GATED, "head_dim": 10, "tie_word_embeddings": True},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "deepseek_v2": {**LATENT, "q_lora_rank": None, "topk_method": "greedy"},
    "deepseek_v2-grouped": {**LATENT, "topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1},
    "deepseek_v3": {**LATENT, "n_group": 2, "topk_group": 1, "attention_bias": True},
}
"""Every kind of decoder that is taken apart in another way, by its model_type and what it has besides."""
KINDS = list(SETTINGS)
EXPERTS = [kind for kind in KINDS if kind.startswith("deepseek")]
IDS = torch.randint(2, WORDS, (3, 11), generator=torch.Generator().manual_seed(0))


def tiny_config(kind: str, **changes: object) -> PretrainedConfig:
    name = kind.partition("-")[0]
    return CONFIG_MAPPING[name](**{**COMMON, **SETTINGS[kind], "attn_implementation": "eager", **changes})


@functools.cache
def _made(kind: str, auto: Any, **changes: int) -> PreTrainedModel:
    torch.manual_seed(1)
    model: PreTrainedModel = auto.from_config(tiny_config(kind, **changes)).eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.ndim == 1 and "inv_freq" not in name:
                value.add_(torch.randn_like(value) * 0.2)
    return model


def tiny(kind: str, auto: Any = AutoModelForCausalLM, **changes: int) -> PreTrainedModel:
    """Make a model whose biases are not 0 and whose norms are not 1, so that losing one shows."""
    return copy.deepcopy(_made(kind, auto, **changes))


def tiny_classifier(kind: str, **changes: int) -> PreTrainedModel:
    return tiny(kind, transformers.AutoModelForSequenceClassification, **changes)


def logits(model: PreTrainedModel, ids: Tensor = IDS, mask: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask).logits


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def some(count: int, of: int, seed: int) -> Tensor:
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def cut_on(kind: str, model: PreTrainedModel, *axes: str) -> PruningPlan:
    """Choose what stays when these axes are cut, other parts in each layer."""
    groups = decoder_of(model).groups(model)
    layers = [0, 2] if "layers" in axes else list(range(LAYERS))
    kept = {"hidden": some(24, HIDDEN, 20)} if "hidden" in axes else {}
    heads = {2: 1, 4: 3 if kind == "gpt2" else 2}[groups["heads.0"].units]
    counts = {"heads": heads, "ffn": 29, "query_rank": 9, "kv_rank": 8, "shared": 16}
    cut = {*axes, *(["query_rank", "kv_rank"] if "ranks" in axes else []), *(["shared"] if "expert_ffn" in axes else [])}
    for place, number in enumerate(layers):
        for seed, (axis, count) in enumerate(counts.items(), 1):
            if axis in cut and f"{axis}.{number}" in groups:
                kept[f"{axis}.{number}"] = some(count, groups[f"{axis}.{number}"].units, 10 * seed + place)
        if f"experts.{number}" not in groups:
            continue
        if "experts" in axes:  # as many of each of two groups of four, others in each layer
            kept[f"experts.{number}"] = torch.cat([some(3, 4, 60 + place), some(3, 4, 70 + place) + 4])
        if "expert_ffn" in axes:
            experts = kept.get(f"experts.{number}", torch.arange(8)).tolist()
            kept[f"expert_ffn.{number}"] = torch.stack([some(8, 16, expert) for expert in experts])
    return PruningPlan(kept, tuple(layers) if "layers" in axes else None)


def axes_of(kind: str) -> list[tuple[str, ...]]:
    """List what is cut in turn: each axis alone, then all together."""
    alone: list[tuple[str, ...]] = [("ffn",), ("layers",), ("hidden", "heads") if kind == "gpt2" else ("hidden",)]
    alone += [] if kind == "gpt2" else [("heads",)]
    alone += [("ranks",), ("experts",), ("expert_ffn",)] if kind in EXPERTS else []
    return [*alone, tuple(dict.fromkeys(axis for axes in alone for axis in axes))]


def _only(kept: Tensor | None, width: int) -> Tensor:
    if kept is None:
        return torch.ones(width)
    mask = torch.zeros(width)
    mask[kept] = 1
    return mask


@contextmanager
def silenced(model: PreTrainedModel, kept: PruningPlan) -> Iterator[PreTrainedModel]:
    """Give the whole model with everything that is not kept made silent: by hooks on what modules take in and say."""
    with ExitStack() as hooks:

        def on_input(module: nn.Module, mask: Tensor) -> None:
            hook = module.register_forward_pre_hook(lambda _, given: (given[0] * mask, *given[1:]))
            hooks.callback(hook.remove)

        def on_output(module: nn.Module, change: Callable[..., Any]) -> None:
            hooks.callback(module.register_forward_hook(lambda module, given, said: change(module, given, said)).remove)

        body, config = model.base_model, model.config
        shape, hidden = decoder_of(model).shape_of(config), kept.of("hidden")
        stream = _only(hidden, shape.hidden)
        blocks = list(body.layers if hasattr(body, "layers") else body.h)
        layers = kept.layers or tuple(range(len(blocks)))
        for number in set(range(len(blocks))) - set(layers):
            on_output(blocks[number], lambda module, given, said: given[0])
        for table in ("embed_tokens", "wte", "wpe"):
            if hasattr(body, table):
                on_output(getattr(body, table), lambda module, given, said: said * stream)
        for number in layers:
            block = blocks[number]
            attention, mlp = getattr(block, "attn", None) or block.self_attn, block.mlp
            out = attention.c_proj if hasattr(attention, "c_proj") else attention.o_proj
            inputs = out.weight.shape[0 if hasattr(out, "nf") else 1]
            groups = shape.groups or 1
            on_input(out, _only(kept.of("heads", number), groups).repeat_interleave(inputs // groups))
            on_output(out, lambda module, given, said: said * stream)
            on_output(mlp, lambda module, given, said: said * stream)
            if (rank := kept.of("kv_rank", number)) is not None:
                on_input(attention.kv_a_layernorm, _only(rank, config.kv_lora_rank))
            if (rank := kept.of("query_rank", number)) is not None:
                on_input(attention.q_a_layernorm, _only(rank, config.q_lora_rank))
            if not hasattr(mlp, "experts"):
                down = getattr(mlp, "c_proj", None) or mlp.down_proj
                on_input(down, _only(kept.of("ffn", number), shape.ffn))
                continue
            on_input(mlp.shared_experts.down_proj, _only(kept.of("shared", number), shape.experts.shared))
            experts, of_each = kept.of("experts", number), kept.of("expert_ffn", number)
            on_output(mlp.gate, functools.partial(_rerouted, gone=_only(experts, shape.experts.count) == 0))
            if of_each is not None:
                for expert, units in zip(torch.arange(8) if experts is None else experts, of_each, strict=True):
                    with torch.no_grad():
                        mlp.experts.down_proj[expert] *= _only(units, shape.experts.ffn)
        if config.model_type == "gpt2" and hidden is not None:
            for norm in [module for module in model.modules() if isinstance(module, nn.LayerNorm)]:
                on_output(norm, functools.partial(_over_fewer, kept=hidden))
        yield model


def _rerouted(router: Any, given: tuple[Tensor], said: tuple[Tensor, ...], gone: Tensor) -> tuple[Tensor, ...]:
    """Route as the papers have it, among the experts that stay: V3 by a corrected sigmoid, V2 by a softmax."""
    scores = said[0].masked_fill(gone, float("-inf"))
    third = hasattr(router, "e_score_correction_bias")
    scores = scores.sigmoid() if third else scores.softmax(-1)
    wanted = (scores + router.e_score_correction_bias if third else scores).masked_fill(gone, float("-inf"))
    if router.num_group:
        groups = wanted.view(len(wanted), router.num_group, -1)
        worth = groups.topk(2, dim=-1).values.sum(-1) if third else groups.max(-1).values
        best = worth.topk(router.topk_group, dim=-1).indices
        open_ = torch.zeros_like(worth).scatter(1, best, 1)[..., None].expand_as(groups).flatten(1)
        wanted = wanted.masked_fill(open_ == 0, float("-inf"))
    chosen = wanted.topk(router.top_k, dim=-1).indices
    weights = scores.gather(1, chosen)
    if third:
        weights = weights / weights.sum(-1, keepdim=True)
    return said[0], weights * router.routed_scaling_factor, chosen


def _over_fewer(norm: nn.LayerNorm, given: tuple[Tensor], said: Tensor, kept: Tensor) -> Tensor:
    """Take LayerNorm's mean and variance over the channels that stay: what no factor on its weight can bring about."""
    fewer = torch.zeros_like(said)
    fewer[..., kept] = functional.layer_norm(given[0][..., kept], (len(kept),), norm.weight[kept], norm.bias[kept], norm.eps)
    return fewer
