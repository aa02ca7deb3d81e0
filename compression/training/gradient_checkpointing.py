"""Layers that keep nothing for the backward pass and are computed again in it (Chen et al. 2016)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def recomputed(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Let a stock model keep, while this lasts, what enters its layers and not what they make of it; backward pass included.

    Stock transformers does so in training mode alone, and distillation trains without dropout, in the other. Dropout draws the
    same numbers again. What a layer says of its insides to hooks is said twice.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)] if wanted else []
    for layer in layers:
        layer.forward = partial(_again, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _again(forward: Any, *given: Any, **named: Any) -> Any:
    # On a device the backward pass runs in a thread of its own: what the caller has set (`numerics.precision`) goes along.
    return checkpoint(partial(_within, copy_context(), forward), *given, use_reentrant=False, **named)


def _within(context: Context, forward: Any, *given: Any, **named: Any) -> Any:
    return context.run(forward, *given, **named)
