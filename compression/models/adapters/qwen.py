"""Adapt Qwen3, which normalizes its query and key heads."""

from typing import Any

from torch import Tensor

from compression.models.adapters.decoder import PreNormDecoder, shared
from compression.models.adapters.structure import Attention
from compression.schema.report.measurements import Shape


class Qwen3(PreNormDecoder):
    """The adapter of Qwen3, whose query and key heads have norms: they share the stream's ε, so a cut of it is off by ε."""

    owns_epsilon = False

    def _made(self, layer: Any, shape: Shape) -> Attention:
        attention, groups = layer.self_attn, shape.groups or shape.heads
        times = shape.heads // groups

        def read(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # The norms' outputs are already split by heads.
            return query.flatten(-2), shared(key.flatten(-2), groups, times), shared(value, groups, times)

        return Attention((attention.q_norm, attention.k_norm, attention.v_proj), read)
