"""Floating-point precision of training: of its products, and of the gradients of simulated integers."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

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


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices as TF32 within this context, on a CUDA device, if the recipe does not say float32.

    TF32 rounds factors to 10 bits after the point; sums stay float32. What must be exact leaves it (`full_float32`).
    """
    if device.type == "cuda" and _precision.get() == "float32":
        with full_float32(device):
            yield
        return
    with _float32_products("high" if device.type == "cuda" else None):
        yield


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Multiply in float32 within this context, also within `fast_float32`, and convolve so: cuDNN's default is TF32."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.allow_tf32
    with _float32_products("highest" if device.type == "cuda" else None):
        cudnn.allow_tf32 = before and device.type != "cuda"
        try:
            yield
        finally:
            cudnn.allow_tf32 = before


@contextmanager
def _float32_products(kind: str | None) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if kind is None or kind == before:
        yield
        return
    torch.set_float32_matmul_precision(kind)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def half_products(device: torch.device, *, wanted: bool = True) -> AbstractContextManager[None]:
    """Multiply floating-point matrices in bfloat16 within this context, if it is `wanted` and `gradient_dtype` is bfloat16;
    otherwise as they are, also within another such context.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and gradient_dtype(device) == torch.bfloat16)
