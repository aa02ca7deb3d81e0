"""DeepSeek-V2 and V3: multi-head latent attention, and experts in all but the shallow layers.

Keys and values of all heads are read from one squeezed vector a token, queries too in the larger models; a group is one head.
Routed experts lie fused in 3-D tensors, shared experts are one feed-forward part. The ranks are normalized between being made
and being read, with an ε that no config says: cutting them is as exact as that ε is small beside the mean square.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters import weight_slices
from compression.models.adapters.decoder import Cut, PreNormDecoder, gated
from compression.models.adapters.structure import Attention, DecoderLayer, Feed, KeptExperts, PruningPlan, head_rows
from compression.models.adapters.weight_slices import Slices, taken
from compression.schema.report.measurements import Experts, Latent, Shape

AHEAD = re.compile(r"(model\.)?layers\.(?P<layer>\d{1,4})\.")
"""Tensors of a layer, those for the prediction of several tokens among them."""


class DeepseekV3(PreNormDecoder):
    """The router scores experts each for itself, corrected by a bias, within the best of some groups of neighbours.

    So a cut keeps as many of each group, and its router says of these what it said before. Layers for the prediction of
    several tokens are not loaded by the stock model, and the config of a cut names none.
    """

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config."""
        groups, chosen_groups = self._routing(config)
        return Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            ffn=config.intermediate_size,
            vocabulary=config.vocab_size,
            groups=config.num_attention_heads,
            head_size=config.qk_nope_head_dim + config.qk_rope_head_dim,
            experts=Experts(
                count=config.n_routed_experts,
                ffn=config.moe_intermediate_size,
                shared=config.moe_intermediate_size * config.n_shared_experts,
                chosen=config.num_experts_per_tok,
                groups=groups,
                chosen_groups=chosen_groups,
                dense_layers=min(config.first_k_dense_replace, config.num_hidden_layers),
            ),
            latent=Latent(
                query=config.q_lora_rank,
                kv=config.kv_lora_rank,
                rope=config.qk_rope_head_dim,
                value=config.v_head_dim,
            ),
        )

    def everything(self, model: PreTrainedModel) -> PruningPlan:
        """Return the choice that keeps the model as it is."""
        whole, shape = super().everything(model), self.shape_of(model.config)
        experts, latent = _has(shape)
        dense = [number < experts.dense_layers for number in range(shape.layers)]
        routed = KeptExperts(
            experts=torch.arange(experts.count),
            units=torch.arange(experts.ffn).expand(experts.count, -1),
            shared=torch.arange(experts.shared),
        )
        return replace(
            whole,
            ffn=tuple(torch.arange(shape.ffn if is_dense else 0) for is_dense in dense),
            routed=tuple(None if is_dense else routed for is_dense in dense),
            query_ranks=tuple(torch.arange(latent.query) for _ in dense) if latent.query else (),
            kv_ranks=tuple(torch.arange(latent.kv) for _ in dense),
        )

    def _made(self, layer: Any, shape: Shape) -> Attention:
        """Of keys what is each head's own: the part with the position is one for all. Narrower ones are filled with zeros."""
        attention, heads, width = layer.self_attn, shape.heads, shape.attended // shape.heads
        _, latent = _has(shape)
        without_position = (shape.head_size or 0) - latent.rope

        def filled(said: Tensor) -> Tensor:
            return functional.pad(said, (0, width - said.shape[-1])).flatten(-2)

        def read(queries: Tensor, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            each = packed.view(*queries.shape[:-1], heads, -1)  # stock code gives it a dimension of one more
            apart = each[..., :without_position], each[..., without_position:]
            return filled(queries.view(*queries.shape[:-1], heads, -1)), filled(apart[0]), filled(apart[1])

        made = attention.q_proj if latent.query is None else attention.q_b_proj
        return Attention((made, attention.kv_b_proj), read)

    def _feeds(self, layer: Any) -> list[Feed]:
        attention, mlp = layer.self_attn, layer.mlp
        squeezed = attention.q_lora_rank is not None
        queries = attention.q_a_proj if squeezed else attention.q_proj
        found: list[Feed] = [(layer.input_layernorm, (queries, attention.kv_a_proj_with_mqa))]
        if squeezed:
            found.append((attention.q_a_layernorm, (attention.q_b_proj,)))
        found.append((attention.kv_a_layernorm, (attention.kv_b_proj,)))
        if hasattr(mlp, "experts"):  # what they read, their router reads too
            return [*found, (mlp.shared_experts.up_proj, (mlp.shared_experts.down_proj,))]
        return [
            *found,
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            (mlp.up_proj, (mlp.down_proj,)),
        ]

    def _block(self, layer: Any) -> DecoderLayer:
        experts = getattr(layer.mlp, "experts", None)
        return DecoderLayer(
            whole=layer,
            norms=(layer.input_layernorm, layer.post_attention_layernorm),
            attended=layer.self_attn.o_proj,
            down=(layer.mlp if experts is None else layer.mlp.shared_experts).down_proj,
            experts=experts,
            query_rank=layer.self_attn.q_a_layernorm,
            kv_rank=layer.self_attn.kv_a_layernorm,
        )

    def is_unread(self, config: PretrainedConfig, name: str) -> bool:
        """Say whether a tensor is of a layer for the prediction of several tokens: they lie behind the last that is read."""
        found, last = AHEAD.match(name), config.num_hidden_layers
        return found is not None and last <= int(found["layer"]) < last + getattr(config, "num_nextn_predict_layers", 0)

    def _routing(self, config: PretrainedConfig) -> tuple[int, int]:
        """Return how many groups the router chooses among, and how many of them."""
        return config.n_group, config.topk_group

    def _built(self, model: PreTrainedModel, cut: Cut) -> PreTrainedModel:
        _without_prediction(cut.config)
        return super()._built(model, cut)

    def cut(self, model: PreTrainedModel, kept: PruningPlan) -> Cut:
        """Say what `narrowed` would do. The model's weights need not be there."""
        found = super().cut(model, kept)
        _without_prediction(found.config)
        return found

    def _checked(self, model: PreTrainedModel, kept: PruningPlan) -> Sequence[int]:
        layers, (experts, _) = super()._checked(model, kept), _has(self.shape_of(model.config))
        if len(kept.routed) != len(layers):
            raise ValueError(f"{len(layers)} layers, and for {len(kept.routed)} it is said which experts stay")
        dense = [number < experts.dense_layers for number in layers]
        if dense != sorted(dense, reverse=True):
            raise ValueError(f"layers {list(layers)}: those without experts must come first")
        if dense != [each is None for each in kept.routed]:
            raise ValueError(f"layers {list(layers)}: experts are chosen where there are none, or not where there are")
        routed = [each for each in kept.routed if each is not None]
        if len({(len(each.experts), *each.units.shape, len(each.shared)) for each in routed}) > 1:
            raise ValueError("layers must keep as many experts, units and shared units each")
        for each in routed:
            of_group = torch.bincount(each.experts // (experts.count // experts.groups), minlength=experts.groups)
            if (of_group != of_group[0]).any():
                raise ValueError(f"{of_group.tolist()} experts stay of the router's groups, and must be as many of each")
        return layers

    def _shape_of_kept(self, config: PretrainedConfig, kept: PruningPlan, layers: Sequence[int]) -> Shape:
        shape = super()._shape_of_kept(config, kept, layers)
        experts, latent = _has(shape)
        widths = {"dense_layers": sum(number < experts.dense_layers for number in layers)}
        routed = next((each for each in kept.routed if each is not None), None)
        if routed is not None:
            count, ffn = routed.units.shape
            widths |= {"count": count, "ffn": ffn, "shared": len(routed.shared)}
        ranks = {"query": len(kept.query_ranks[0]) if kept.query_ranks else None, "kv": len(kept.kv_ranks[0])}
        return shape.model_copy(
            update={"experts": experts.model_copy(update=widths), "latent": latent.model_copy(update=ranks)}
        )

    def _set_widths(self, config: PretrainedConfig, shape: Shape) -> None:
        experts, latent = _has(shape)
        config.hidden_size, config.intermediate_size = shape.hidden, shape.ffn
        config.num_attention_heads = config.num_key_value_heads = shape.heads
        config.q_lora_rank, config.kv_lora_rank = latent.query, latent.kv
        config.n_routed_experts, config.moe_intermediate_size = experts.count, experts.ffn
        config.n_shared_experts = experts.shared // experts.ffn
        config.first_k_dense_replace = experts.dense_layers

    def _attention(self, name: str, place: int, kept: PruningPlan, config: PretrainedConfig) -> Slices:
        heads, rank = kept.heads[place], kept.kv_ranks[place]
        without_position, value = config.qk_nope_head_dim, config.v_head_dim
        # Behind the rank lie the channels of the one key with the position, which all heads share: they stay.
        made = torch.cat([rank, torch.arange(config.kv_lora_rank, config.kv_lora_rank + config.qk_rope_head_dim)])
        values = head_rows(heads, value)
        return {
            **self._queries(name, place, kept, config),
            **weight_slices.linear(f"{name}.kv_a_proj_with_mqa", made, kept.hidden),
            **weight_slices.rms_norm(f"{name}.kv_a_layernorm", rank, config.kv_lora_rank),
            **weight_slices.linear(f"{name}.kv_b_proj", head_rows(heads, without_position + value), rank),
            **weight_slices.linear(f"{name}.o_proj", kept.hidden, values),
        }

    def _queries(self, name: str, place: int, kept: PruningPlan, config: PretrainedConfig) -> Slices:
        queries = head_rows(kept.heads[place], config.qk_nope_head_dim + config.qk_rope_head_dim)
        if config.q_lora_rank is None:
            return weight_slices.linear(f"{name}.q_proj", queries, kept.hidden)
        rank: Tensor = kept.query_ranks[place]
        return {
            **weight_slices.linear(f"{name}.q_a_proj", rank, kept.hidden),
            **weight_slices.rms_norm(f"{name}.q_a_layernorm", rank, config.q_lora_rank),
            **weight_slices.linear(f"{name}.q_b_proj", queries, rank),
        }

    def _feed_forward(self, name: str, place: int, kept: PruningPlan) -> Slices:
        routed = kept.routed[place]
        if routed is None:
            return super()._feed_forward(name, place, kept)
        return {
            f"{name}.gate.weight": taken(routed.experts, kept.hidden),
            f"{name}.gate.e_score_correction_bias": taken(routed.experts),
            **weight_slices.experts(f"{name}.experts", routed.experts, routed.units, kept.hidden),
            **gated(f"{name}.shared_experts", routed.shared, kept.hidden),
        }


class DeepseekV2(DeepseekV3):
    """The router's scores are a softmax over all experts: over those that stay they add up to 1 again.

    It chooses among groups only where the config says so (topk_method). The config wants hidden to be a multiple of the heads.
    """

    def is_unread(self, config: PretrainedConfig, name: str) -> bool:  # noqa: ARG002 (V3's own)
        """Say of every tensor that stock code reads it: there is no prediction of several tokens."""
        return False

    def _routing(self, config: PretrainedConfig) -> tuple[int, int]:
        return (config.n_group, config.topk_group) if config.topk_method == "group_limited_greedy" else (1, 1)


def _without_prediction(config: PretrainedConfig) -> None:
    if hasattr(config, "num_mtp_layers"):
        config.num_mtp_layers = 0


def _has(shape: Shape) -> tuple[Experts, Latent]:
    assert shape.experts is not None, "the family's shapes say it"  # noqa: S101
    assert shape.latent is not None, "the family's shapes say it"  # noqa: S101
    return shape.experts, shape.latent


DEEPSEEK_V2, DEEPSEEK_V3 = DeepseekV2(), DeepseekV3()
