"""Runs a head on chunks of tokens. No tensor of all tokens by the whole vocabulary exists, forward or backward."""

from collections.abc import Callable
from contextvars import copy_context

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BYTES = 64 << 20
"""Size of one chunk's logits in float32. A loss against a teacher briefly holds about six such tensors in the backward pass."""


def chunk_size(vocabulary: int) -> int:
    """Return how many tokens go through the head at once: 341 for a vocabulary of 49,152."""
    return max(1, BYTES // (4 * vocabulary))


def widen(logits: Tensor) -> Tensor:
    """Return logits in at least float32: 16 bits do not suffice for a sum over a vocabulary."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def sum_over_chunks(part: Callable[..., Tensor], size: int, *columns: Tensor) -> Tensor:
    """Sum `part` over chunks of `size` tokens; the backward pass recomputes each chunk, so none stays in memory.

    columns: (tokens, ...) each, one token or more; part: takes a chunk of each -> a tensor whose shape does not depend on it.
    """
    total: Tensor | None = None
    for chunk in zip(*(torch.split(column, size) for column in columns), strict=True):
        # On a device the backward pass runs in its own thread: it needs the caller's context (`precision.gradient_precision`).
        value = checkpoint(copy_context().run, part, *chunk, use_reentrant=False, preserve_rng_state=False)
        total = value if total is None else total + value
    assert total is not None, "there is a token"  # noqa: S101
    return total
