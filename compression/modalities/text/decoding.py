"""The decoder interface of every runtime: reads tokens at once or one by one, with a cache. Torch-free."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.text.inputs import Batch, Ids


@runtime_checkable
class Decoder(Protocol):
    """A language model, opened by its own runtime (`runner.open_artifact`)."""

    name: str  #: runtime, version and device, as the report names them

    def step(self, ids: Ids, cache: Any = None, mask: Ids | None = None) -> tuple[Logits, Any]:
        """Run the tokens that follow those in a cache, which is used once, or the first ones.

        ids, mask: (rows, tokens); mask 1 for real tokens -> logits (rows, tokens, vocabulary), a cache with these tokens.
        """

    def logits(self, batch: Batch) -> Logits:
        """Return the logits of one batch, padded on either side. -> (rows, tokens, vocabulary)"""


def last_step(decoder: Decoder, ids: Ids, cache: Any = None) -> tuple[Logits, Any]:
    """Run more tokens, as `Decoder.step` does, for what follows the last alone -> logits (rows, 1, vocabulary), a cache.

    A decoder with a `last_step` of its own computes no others, as servers of its runtime do; the others compute all.
    """
    own = getattr(decoder, "last_step", decoder.step)
    logits, cache = own(ids, cache)
    return logits[:, -1:], cache


def greedy(decoder: Decoder, ids: Ids, mask: Ids | None = None) -> Iterator[Ids]:
    """Yield each row's most likely next token, without end, (rows,) each. ids: prompts, (rows, tokens), left-padded."""
    logits, cache = decoder.step(ids, None, mask)
    while True:
        following = chosen(logits)
        yield following[:, 0]
        logits, cache = decoder.step(following, cache)


def pieces(decoder: Decoder, batch: Batch, size: int) -> Iterator[tuple[int, Logits]]:
    """Run `size` tokens of each row at a time -> first position, logits (rows, some tokens, vocabulary)."""
    width, cache = batch.input_ids.shape[1], None
    if width <= size:
        yield 0, decoder.logits(batch)
        return
    for start in range(0, width, size):
        ids, mask = (np.ascontiguousarray(each[:, start : start + size]) for each in (batch.input_ids, batch.attention_mask))
        logits, cache = decoder.step(ids, cache, mask)
        yield start, logits


def chosen(logits: Logits) -> Ids:
    """Return the most likely next token of each row. (rows, tokens, vocabulary) -> (rows, 1)"""
    found: Ids = logits[:, -1:].argmax(axis=-1)
    return found
