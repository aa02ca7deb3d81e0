"""Gradient checkpointing (Chen et al. 2016): layers store only their inputs and are computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def recomputed(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Use gradient checkpointing in a stock model's layers within this context, which must include the backward pass.

    Stock transformers does so only in training mode, but distillation trains in evaluation mode. Hooks inside a layer run
    twice.
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
    # On a device the backward pass runs in its own thread: pass the caller's context variables (`gradient_precision`) along.
    return checkpoint(partial(copy_context().run, forward), *given, use_reentrant=False, **named)
