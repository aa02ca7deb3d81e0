"""Adapt DeepSeek-V2 and V3: multi-head latent attention, and experts in all but the shallow layers.

The keys and values of all heads are projected from one compressed vector per token, in the larger models the queries too; a
group is one head. Routed experts are fused into 3-D tensors; the shared experts are one feed-forward part. The norm of a
compressed vector has an ε that is not in the config: a cut of the ranks is as exact as that ε is small.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compression.models.adapters.decoder import PreNormDecoder
from compression.models.adapters.structure import Attention, DecoderLayer, Feed, PruningPlan
from compression.models.architectures.pruning_groups import axis_and_layer
from compression.schema.report.measurements import Shape


class Deepseek(PreNormDecoder):
    """The adapter of DeepSeek-V2 and V3.

    V3's router scores each expert independently, corrected by a bias, within the best of several groups of neighbouring
    experts. V2's scores are a softmax over all experts: over the remaining experts they add up to 1 again. V2 chooses among
    groups only if the config says so (topk_method). A cut keeps equally many experts of each group, and its router chooses
    among these as before.
    """

    def _made(self, layer: Any, shape: Shape) -> Attention:
        """Return each head's own part of the keys, padded with zeros; the part with the position is the same for all heads."""
        attention, heads, width = layer.self_attn, shape.heads, shape.attended // shape.heads
        latent = shape.latent
        assert latent is not None, "a shape of the family"  # noqa: S101
        without_position = (shape.head_size or 0) - latent.rope

        def filled(values: Tensor) -> Tensor:
            return functional.pad(values, (0, width - values.shape[-1])).flatten(-2)

        def read(queries: Tensor, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            each = packed.view(*queries.shape[:-1], heads, -1)  # stock code adds one dimension
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
        if hasattr(mlp, "experts"):  # the router reads what the experts read
            return [*found, (mlp.shared_experts.up_proj, (mlp.shared_experts.down_proj,))]
        return [*found, (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)), (mlp.up_proj, (mlp.down_proj,))]

    def _layer(self, layer: Any) -> DecoderLayer:
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

    def shape_after(self, shape: Shape, plan: PruningPlan) -> Shape:
        """Return the shape that a plan leads to. Raises ValueError also if the plan's router could not choose as before."""
        found, experts = super().shape_after(shape, plan), shape.experts
        assert experts is not None, "a shape of the family"  # noqa: S101
        dense = [number < experts.dense_layers for number in plan.layers or ()]
        if dense != sorted(dense, reverse=True):
            raise ValueError(f"layers {list(plan.layers or ())}: those without experts must come first")
        for key, kept in plan.kept.items():
            if axis_and_layer(key)[0] == "experts":
                of_group = torch.bincount(kept // (experts.count // experts.groups), minlength=experts.groups)
                if (of_group != of_group[0]).any():
                    raise ValueError(f"{of_group.tolist()} experts stay of the router's groups, and must be as many of each")
        return found
