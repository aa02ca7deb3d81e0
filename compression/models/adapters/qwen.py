"""Qwen3, which normalizes heads."""

from typing import Any

from torch import Tensor

from compression.models.adapters.decoder import PreNormDecoder, shared
from compression.models.adapters.structure import Attention
from compression.schema.report.measurements import Shape


class Qwen3(PreNormDecoder):
    """Each query and key head goes through an RMSNorm of its own, over the head size, which no cut changes.

    These norms have the ε of those over the stream, so it stays as it is, and a cut of the stream is off by what ε weighs.
    """

    owns_epsilon = False

    def _made(self, layer: Any, shape: Shape) -> Attention:
        attention, groups = layer.self_attn, shape.groups or shape.heads
        times = shape.heads // groups

        def read(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # The norms' outputs are apart by heads already.
            return query.flatten(-2), shared(key.flatten(-2), groups, times), shared(value, groups, times)

        return Attention((attention.q_norm, attention.k_norm, attention.v_proj), read)
