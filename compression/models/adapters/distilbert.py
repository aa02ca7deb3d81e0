"""DistilBERT: a BERT without token types and pooler, whose config has names of its own (`dim`, `hidden_dim`)."""

from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from compression.models.adapters.encoder import PostNormEncoder
from compression.models.adapters.structure import EncoderLayer


class DistilBert(PostNormEncoder):
    """The stock config maps hidden_size, num_attention_heads and num_hidden_layers to its own names; not the last one.

    What a pooler is elsewhere belongs to the head here (`pre_classifier`); the classes for tokens and spans have none.
    """

    ffn_key = "hidden_dim"

    def types(self, config: PretrainedConfig) -> int:  # noqa: ARG002 (the protocol's)
        """There are no token types."""
        return 0

    def _blocks(self, model: PreTrainedModel) -> nn.ModuleList:
        blocks: nn.ModuleList = model.base_model.transformer.layer
        return blocks

    def _layer(self, block: Any) -> EncoderLayer:
        return EncoderLayer(
            query=block.attention.q_lin,
            key=block.attention.k_lin,
            value=block.attention.v_lin,
            attended=block.attention.out_lin,
            attended_norm=block.sa_layer_norm,
            up=block.ffn.lin1,
            down=block.ffn.lin2,
            norm=block.output_layer_norm,
        )

    def _pooler(self, model: PreTrainedModel) -> nn.Linear | None:
        return getattr(model, "pre_classifier", None)


DISTILBERT = DistilBert()
