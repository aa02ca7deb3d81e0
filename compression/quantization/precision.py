"""In what floating point the gradients of simulated integers are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from compression.schema.recipe.base import Precision

_precision: ContextVar[Precision] = ContextVar("precision", default="auto")


@contextmanager
def gradient_precision(asked: Precision) -> Iterator[None]:
    """Let `gradient_dtype` follow the recipe for a while."""
    before = _precision.set(asked)
    try:
        yield
    finally:
        _precision.reset(before)


def has_bfloat16(device: torch.device) -> bool:
    """Say whether a device multiplies bfloat16 itself, so that it is faster than float32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def gradient_dtype(device: torch.device) -> torch.dtype:
    """Say in what precision the gradients of linear layers are multiplied: bfloat16 where it is faster and not forbidden."""
    return torch.bfloat16 if _precision.get() != "float32" and has_bfloat16(device) else torch.float32
