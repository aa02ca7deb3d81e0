"""MPNet: BERT's encoder without token types, with a bias by distance that all layers share, one column a head."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.encoder import PostNormEncoder
from compression.models.adapters.structure import Axes, EncoderLayer, PruningPlan

FIRST_POSITION = 2
"""The stock code counts positions from the padding id 1, whatever the config says."""


class MPNet(PostNormEncoder):
    """Layers share the bias's columns, so a head goes from all of them or from none. The head for sequences: as RoBERTa's."""

    attention = "eager"
    shallow = ("embeddings", "relative_attention_bias")

    def types(self, config: PretrainedConfig) -> int:  # noqa: ARG002 (the protocol's)
        """There are no token types."""
        return 0

    def max_positions(self, config: PretrainedConfig) -> int:
        """Say how many tokens a text may have."""
        return int(config.max_position_embeddings) - FIRST_POSITION

    def fixed_tokens(self, config: PretrainedConfig) -> tuple[int, ...]:  # noqa: ARG002
        """Return the first token ids, which must keep their numbers: the padding token's says where positions begin."""
        return tuple(range(FIRST_POSITION))

    def head_scores(self, scores: list[Tensor]) -> list[Tensor]:
        """Give every layer the sum over all layers. (heads,) each -> the same."""
        return [torch.stack(scores).sum(dim=0)] * len(scores)

    def _layer(self, block: Any) -> EncoderLayer:
        return EncoderLayer(
            query=block.attention.attn.q,
            key=block.attention.attn.k,
            value=block.attention.attn.v,
            attended=block.attention.attn.o,
            attended_norm=block.attention.LayerNorm,
            up=block.intermediate.dense,
            down=block.output.dense,
            norm=block.output.LayerNorm,
        )

    def _axes(self, model: PreTrainedModel, kept: PruningPlan) -> dict[nn.Module, Axes]:
        if any(not heads.equal(kept.heads[0]) for heads in kept.heads):
            raise ValueError("layers that share one bias by distance must keep the same heads")
        return {**super()._axes(model, kept), model.base_model.encoder.relative_attention_bias: (None, kept.heads[0])}


MPNET = MPNet()
