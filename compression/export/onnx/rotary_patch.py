"""Replaces DeepSeek-V2's rotary embedding, in complex numbers, by a real one for tracing: ONNX has no complex numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as stock


def _angles(rotary: Any, x: Tensor, position_ids: Tensor) -> Tensor:
    """Return cosine and sine of each pair's rotation angle. position_ids: (rows, tokens) -> (rows, tokens, pairs, 2)."""
    angles = position_ids[..., None].float() * rotary.inv_freq.to(device=x.device, dtype=torch.float)
    found: Tensor = torch.stack([angles.cos(), angles.sin()], dim=-1) * rotary.attention_scaling
    return found


def _turned(queries: Tensor, keys: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply (a + ib) by (cos + i sin). queries, keys: (rows, heads, tokens, 2 × pairs) -> the same."""
    cos, sin = angles.unsqueeze(1).unbind(dim=-1)

    def turn(x: Tensor) -> Tensor:
        a, b = x[..., 0::2].float(), x[..., 1::2].float()
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(3).type_as(x)

    return turn(queries), turn(keys)


@contextmanager
def real_rotation(model: nn.Module) -> Iterator[None]:
    """Make a DeepSeek-V2 model compute without complex numbers; other models stay unchanged."""
    rotary = next((module for module in model.modules() if isinstance(module, stock.DeepseekV2RotaryEmbedding)), None)
    if rotary is None:
        yield
        return
    usual = stock.apply_rotary_emb
    stock.apply_rotary_emb = _turned
    rotary.forward = MethodType(_angles, rotary)
    try:
        yield
    finally:
        stock.apply_rotary_emb = usual
        del rotary.forward
