"""Floating-point precision of training: of its products, and of the gradients of simulated integers."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

from compression.schema.recipe.base import Precision

_precision: ContextVar[Precision] = ContextVar("precision", default="auto")


@contextmanager
def gradient_precision(asked: Precision) -> Iterator[None]:
    """Set the recipe's precision for `gradient_dtype` within this context."""
    before = _precision.set(asked)
    try:
        yield
    finally:
        _precision.reset(before)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware, so that it is faster than float32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def gradient_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for gradients of linear layers: bfloat16 if it is faster and the recipe allows it."""
    return torch.bfloat16 if _precision.get() != "float32" and has_bfloat16(device) else torch.float32


def half_products(device: torch.device, *, wanted: bool = True) -> AbstractContextManager[None]:
    """Multiply floating-point matrices in bfloat16 within this context, if it is `wanted` and `gradient_dtype` is bfloat16."""
    half = wanted and gradient_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()
