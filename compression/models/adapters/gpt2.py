"""Adapt GPT-2: LayerNorms, a position table, biases everywhere, and transposed weights (Conv1D)."""

from typing import Any

from torch import Tensor

from compression.models.adapters.cutting import Cut
from compression.models.adapters.decoder import PreNormDecoder
from compression.models.adapters.structure import Attention, DecoderLayer, Feed
from compression.schema.report.measurements import Shape


class Gpt2(PreNormDecoder):
    """The adapter of GPT-2, where hidden = heads × head size. Its LayerNorms read fewer channels after a cut of the stream."""

    owns_epsilon = False

    def _made(self, layer: Any, shape: Shape) -> Attention:  # noqa: ARG002 (every head has keys and values of its own)
        return Attention((layer.attn.c_attn,), lambda packed: packed.chunk(3, dim=-1))

    def _feeds(self, layer: Any) -> list[Feed]:
        return [(layer.ln_1, (layer.attn.c_attn,)), (layer.ln_2, (layer.mlp.c_fc,))]

    def _layer(self, layer: Any) -> DecoderLayer:
        return DecoderLayer(whole=layer, norms=(layer.ln_1, layer.ln_2), attended=layer.attn.c_proj, down=layer.mlp.c_proj)

    def after_cut(self, cut: Cut, name: str, tensor: Tensor) -> Tensor:
        """Scale the queries if the config divides attention scores by the layer number and that changed."""
        number, layers = cut.layer_of(name), cut.plan.layers
        if ".attn.c_attn." not in name or not cut.before.scale_attn_by_inverse_layer_idx or number is None or layers is None:
            return tensor
        factor, queries = (layers.index(number) + 1) / (number + 1), tensor.shape[-1] // 3
        if factor != 1:
            tensor[..., :queries] *= factor
        return tensor
