"""Gradient checkpointing (Chen et al. 2016): layers store only their inputs and are computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers that can be computed again: those of stock transformers of text, of most families."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def recomputed(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Use gradient checkpointing in a stock model's layers within this context, which must include the backward pass.

    Stock transformers does so only in training mode, but distillation trains in evaluation mode. Hooks inside a layer run
    twice.
    """
    layers = layers_of(model) if wanted else []
    before = [vars(layer).get("forward") for layer in layers]  # a compiled one
    for layer in layers:
        layer.forward = partial(_again, layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def _again(forward: Any, *given: Any, **named: Any) -> Any:
    # On a device the backward pass runs in its own thread: pass the caller's context variables (`gradient_precision`) along.
    return checkpoint(partial(copy_context().run, forward), *given, use_reentrant=False, **named)
