"""Some tokens at a time through a head: no tensor of all tokens by the whole vocabulary is ever there, forward or backward."""

from collections.abc import Callable
from contextvars import Context, copy_context

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BYTES = 64 << 20
"""Of one chunk's logits in float32. A loss against a teacher holds some six such tensors for a moment, in the backward pass."""


def chunk_size(vocabulary: int) -> int:
    """Say how many tokens go through the head together: 341 where the vocabulary has 49,152."""
    return max(1, BYTES // (4 * vocabulary))


def widen(logits: Tensor) -> Tensor:
    """Return logits in float32 at least: 16 bits do not suffice for a sum over a vocabulary."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def sum_over_chunks(part: Callable[..., Tensor], size: int, *columns: Tensor) -> Tensor:
    """Add up `part` over chunks of `size` tokens; each is computed again in the backward pass, and kept by nobody till then.

    columns: (tokens, ...) each, one token or more; part: takes a chunk of each -> a tensor whose shape does not depend on the
    chunk. Gradients flow to the columns and to all parameters that `part` uses, as if it had seen all tokens at once.
    """
    total: Tensor | None = None
    for chunk in zip(*(torch.split(column, size) for column in columns), strict=True):
        # On a device the backward pass runs in a thread of its own: what the caller has set (`numerics.precision`) goes along.
        here = copy_context()
        found = checkpoint(_within, here, part, *chunk, use_reentrant=False, preserve_rng_state=False)
        total = found if total is None else total + found
    assert total is not None, "there is a token"  # noqa: S101
    return total


def _within(context: Context, part: Callable[..., Tensor], *chunk: Tensor) -> Tensor:
    found: Tensor = context.run(part, *chunk)
    return found
