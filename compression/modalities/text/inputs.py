"""Tokenizes texts into an artifact's inputs with its own tokenizer.json. Torch-free."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from compression.modalities.scoring.base import Asked, Floats, Row
from compression.schema.prediction_request import LONGEST_WORD, MOST_WORDS, RowInputs
from compression.schema.recipe.base import Task

Ids = npt.NDArray[np.int64]
Ask = Callable[[Sequence[Row]], Asked]
"""Tokenizes rows."""


@dataclass(frozen=True)
class Batch:
    """One padded batch, each (batch, sequence)."""

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids

    @property
    def arrays(self) -> dict[str, Ids]:
        """Return the arrays by the model's input names."""
        return dict(vars(self))

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of rows, and of tokens of each."""
        rows, tokens = self.input_ids.shape
        return rows, tokens

    def real(self, logits: Floats) -> Floats:
        """Return the logits without those of padding, if there are logits for each token."""
        return logits[self.attention_mask.astype(bool)] if logits.ndim == 3 else logits


SAMPLE_TOKENS, SAMPLE_WINDOWS = 4096, 8
"""Tokens that verify an artifact, at most, unless its fewest windows have more. Each passes through every layer; several forms
of the model answer them on the CPU, one of them in simulated integers."""


class TextScorer(Protocol):
    """A scorer that tokenizes its task's rows."""

    def asking(self, tokenizer: Tokenizer) -> Ask:
        """Return what tokenizes rows with an artifact's own tokenizer, which truncates to the artifact's length.

        It is made once for an artifact, and may be called by several threads at a time.
        """
        ...


class ReadsTexts:
    """Base class of all text scorers."""

    def reader(self: TextScorer, folder: Path, pad_id: int | None = None) -> "TextReader":
        """Open an artifact's tokenizer."""
        return TextReader(folder, self, pad_id)

    def sample(self, reader: Any, rows: Sequence[Row], outputs: int) -> list[Any]:  # noqa: ARG002
        """Return the inputs that verify an artifact: each window alone, then all in one batch; of long ones fewer."""
        windows = reader.ask(rows).windows
        read = accumulate(len(window.ids) for window in windows)
        windows = windows[: max(sum(tokens <= SAMPLE_TOKENS for tokens in read), SAMPLE_WINDOWS)]
        return [*reader.batches(windows, 1), *reader.batches(windows, len(windows))]


class TextReader:
    """Encodes rows of texts for an artifact.

    tokenizer: its own, which truncates to its length, without padding.
    """

    def __init__(self, folder: Path, scorer: TextScorer, pad_id: int | None = None) -> None:
        self.tokenizer = tokenizer_of(folder)
        self.pad_id: int = json.loads((folder / "config.json").read_text("utf-8")).get("pad_token_id") or 0
        if pad_id is not None:
            self.pad_id = pad_id
        self._ask = scorer.asking(self.tokenizer)

    def example(self, rows: int, length: int) -> Batch:
        """Make a batch without padding."""
        return full_batch(rows, length, self.tokenizer.get_vocab_size())

    def ask(self, rows: Sequence[Row]) -> Asked:
        """Tokenize rows."""
        return self._ask(rows)

    def batches(self, windows: Sequence[Encoding], size: int) -> Iterator[Batch]:
        """Pad every `size` windows to the longest among them."""
        return batches(windows, size, pad_id=self.pad_id)

    def answered(self, window: Encoding, logits: Floats) -> Floats:
        """Return the logits without those of padding."""
        return logits[: len(window.ids)] if logits.ndim > 1 else logits


def tokenizer_of(folder: Path) -> Tokenizer:
    """Open the artifact's tokenizer.json, which truncates to the artifact's own length, without padding."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def one_window(tokenizer: Tokenizer, inputs: Sequence[str | tuple[str, str]]) -> Asked:
    """Tokenize rows into one window each; longer rows are truncated."""
    windows = tokenizer.encode_batch(list(inputs))
    return Asked(windows, list(range(len(windows))))


def batches(encodings: Iterable[Encoding], size: int, *, pad_id: int = 0) -> Iterator[Batch]:
    """Pad every `size` rows to the longest among them, in order."""
    rows: list[Encoding] = []
    for encoding in encodings:
        rows.append(encoding)
        if len(rows) == size:
            yield _padded(rows, pad_id)
            rows = []
    if rows:
        yield _padded(rows, pad_id)


def _padded(rows: list[Encoding], pad_id: int) -> Batch:
    longest = max(len(row.ids) for row in rows)

    def table(parts: Iterable[list[int]], fill: int) -> Ids:
        return np.array([part + [fill] * (longest - len(part)) for part in parts], np.int64)

    return Batch(
        input_ids=table((row.ids for row in rows), pad_id),
        attention_mask=table((row.attention_mask for row in rows), 0),
        token_type_ids=table((row.type_ids for row in rows), 0),
    )


def batch_of(rows: Sequence[list[int]], pad_id: int = 0) -> Batch:
    """Return a batch of rows of token ids, padded on the right; every token has type 0."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, : len(row)], mask[line, : len(row)] = row, 1
    return Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))


def full_batch(batch: int, length: int, vocabulary: int, *, seed: int = 0) -> Batch:
    """Make a batch of random tokens of the whole vocabulary, without padding, to measure latency on."""
    ids = np.random.default_rng(seed).integers(0, vocabulary, (batch, length), dtype=np.int64)
    return Batch(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))


def scored_row(task: Task, text: str, pair: str | None = None, words: Sequence[str] | None = None) -> Row:
    """Return the scorer's row of what a task reads. text: of question answering the question, with its context as `pair`."""
    if task == "token-classification":
        return {"words": list(words or text.split())}
    if task == "question-answering":
        return {"question": text, "context": pair or ""}
    return {"text": text, **({} if pair is None else {"pair": pair})}


def asked_row(task: Task, given: RowInputs) -> Row:
    """Return the scorer's row of a request's own texts."""
    return scored_row(task, given.question or given.text or "", given.context or given.text_pair, given.tokens)


def cut_words(words: Sequence[Any]) -> list[str]:
    """Return at most MOST_WORDS words, each truncated to LONGEST_WORD.

    A row of the data may have any length, and predictions are stored.
    """
    return [word[:LONGEST_WORD] for word in words[:MOST_WORDS]]
