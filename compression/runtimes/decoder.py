"""What every runtime offers of a language model: tokens read at once or one after the other, with a cache. Torch-free."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from compression.runtimes.runner import Batch, Ids, Kind, Logits


class Decoder(Protocol):
    """A language model opened by its own runtime."""

    name: str
    """Runtime, version and device, as the report names them."""

    def step(self, ids: Ids, cache: Any = None, mask: Ids | None = None) -> tuple[Logits, Any]:
        """Read tokens that follow those of a cache, or the first ones. -> logits (rows, tokens, vocabulary), a cache with them.

        ids: (rows, tokens); mask: of the same shape, 1 for real tokens, by default all. A cache is used once.
        """
        ...

    def logits(self, batch: Batch) -> Logits:
        """Answer one batch, padded on any side. -> (rows, tokens, vocabulary)"""
        ...


def open_decoder(kind: Kind, folder: Path, *, threads: int) -> Decoder:
    """Open a language model's folder in the stock runtime of its kind, with a fixed number of threads."""
    # By name and late, as in `runner.open_artifact`.
    decoder: Decoder = importlib.import_module(f"compression.runtimes.{kind}").open_decoder(folder, threads=threads)
    return decoder


def greedy(decoder: Decoder, ids: Ids, mask: Ids | None = None) -> Iterator[Ids]:
    """Yield the likeliest next token of each row, without end, (rows,) each. ids: prompts, (rows, tokens), padded before."""
    logits, cache = decoder.step(ids, None, mask)
    while True:
        following = chosen(logits)
        yield following[:, 0]
        logits, cache = decoder.step(following, cache)


def chosen(logits: Logits) -> Ids:
    """Take the likeliest next token of each row. (rows, tokens, vocabulary) -> (rows, 1)"""
    found: Ids = logits[:, -1:].argmax(axis=-1)
    return found
