"""GPT-2: LayerNorms, a table of positions, biases everywhere, and layers whose weights lie transposed (Conv1D)."""

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compression.models.adapters import weight_slices
from compression.models.adapters.decoder import PreNormDecoder
from compression.models.adapters.structure import Attention, DecoderLayer, Feed, PruningPlan, head_rows
from compression.models.adapters.weight_slices import Slice, Slices
from compression.schema.report.measurements import Shape


class Gpt2(PreNormDecoder):
    """Every head has keys and values of its own, and hidden = heads × head size: both shrink together.

    Fewer channels of the stream do not equal the masked model, since LayerNorm takes its mean and variance over fewer; all else
    does.
    """

    stack = "h"
    final_norm = "ln_f"
    tables = ("wte", "wpe")
    owns_epsilon = False

    def shape_of(self, config: PretrainedConfig) -> Shape:
        """Read the widths from a stock config."""
        heads = config.num_attention_heads
        return Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            ffn=config.n_inner if config.n_inner is not None else 4 * config.hidden_size,
            vocabulary=config.vocab_size,
            groups=heads,
            head_size=config.hidden_size // heads,
        )

    def _made(self, layer: Any, shape: Shape) -> Attention:  # noqa: ARG002 (every head has keys and values of its own)
        return Attention((layer.attn.c_attn,), lambda packed: packed.chunk(3, dim=-1))

    def _feeds(self, layer: Any) -> list[Feed]:
        return [(layer.ln_1, (layer.attn.c_attn,)), (layer.ln_2, (layer.mlp.c_fc,))]

    def _block(self, layer: Any) -> DecoderLayer:
        return DecoderLayer(whole=layer, norms=(layer.ln_1, layer.ln_2), attended=layer.attn.c_proj, down=layer.mlp.c_proj)

    def _set_widths(self, config: PretrainedConfig, shape: Shape) -> None:
        config.hidden_size, config.num_attention_heads, config.n_inner = shape.hidden, shape.heads, shape.ffn

    def _norm(self, name: str, kept: Tensor, config: PretrainedConfig) -> Slices:  # noqa: ARG002 (no factor would mend it)
        return weight_slices.layer_norm(name, kept)

    def _layer(self, name: str, place: int, number: int, kept: PruningPlan, config: PretrainedConfig) -> Slices:
        rows = head_rows(kept.heads[place], config.hidden_size // config.num_attention_heads)
        packed = torch.cat([rows + part * config.hidden_size for part in range(3)])  # queries, keys, values
        found = weight_slices.conv1d(f"{name}.attn.c_attn", packed, kept.hidden)
        if config.scale_attn_by_inverse_layer_idx and place != number:
            found = {key: _weaker(cut, len(rows), (place + 1) / (number + 1)) for key, cut in found.items()}
        return {
            **found,
            **weight_slices.conv1d(f"{name}.attn.c_proj", kept.hidden, rows),
            **weight_slices.conv1d(f"{name}.mlp.c_fc", kept.ffn[place], kept.hidden),
            **weight_slices.conv1d(f"{name}.mlp.c_proj", kept.hidden, kept.ffn[place]),
            **weight_slices.layer_norm(f"{name}.ln_1", kept.hidden),
            **weight_slices.layer_norm(f"{name}.ln_2", kept.hidden),
        }


def _weaker(cut: Slice, queries: int, factor: float) -> Slice:
    """Scale queries: such configs divide attention scores by the layer's number, and the layer has got another one."""

    def slice_of(whole: Tensor) -> Tensor:
        found = cut(whole)
        found[..., :queries] *= factor
        return found

    return slice_of


GPT2 = Gpt2()
