"""What all tasks' scorers have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

Floats = npt.NDArray[np.float32]
Row = dict[str, Any]
"""A line of the measuring process's file: texts, and the label in the form that its task's scorer reads."""


@dataclass(frozen=True)
class Figures:
    """What a set of answers is worth. `values` holds the headline metric and the task's others.

    standard_errors: of each value, but for a mean over a kind of rows of which there is only one. error_from: the headline's.
    draws: the headline on `errors.resampled`'s samples of the rows.
    """

    values: dict[str, float]
    standard_errors: dict[str, float]
    error_from: Literal["analytic", "bootstrap"]
    chance: float
    draws: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """Rows as a model takes them: windows of tokens, one a row but for long contexts. `owners[i]` is the row of window i."""

    windows: list[Encoding]
    owners: list[int]


class Scorer(Protocol):
    """Judges one task."""

    @property
    def metric(self) -> str:
        """The headline metric."""
        ...

    def ask(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> Asked:
        """Tokenize rows with an artifact's own tokenizer, which cuts to the artifact's length."""
        ...

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:
        """Read answers out of each window's logits, padding cut off. -> one for each row."""
        ...

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Judge the answers to all rows by the headline metric and the task's others."""
        ...

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = 0) -> Figures:
        """Say beside each value how sure it is. seed: of the samples of the rows."""
        ...

    def changed(self, alone: Sequence[Any], together: Sequence[Any]) -> int:
        """Count the rows whose answers differ."""
        ...


def one_window(tokenizer: Tokenizer, inputs: Sequence[str | tuple[str, str]]) -> Asked:
    """Tokenize rows that are cut where they are too long."""
    windows = tokenizer.encode_batch(list(inputs))
    return Asked(windows, list(range(len(windows))))


def texts_of(row: Row) -> str | tuple[str, str]:
    """Return a row's text, or both where it has two."""
    return (row["text"], row["pair"]) if row.get("pair") is not None else row["text"]


def differing(alone: Sequence[Any], together: Sequence[Any]) -> int:
    """Count places where two lists differ."""
    return sum(one != other for one, other in zip(alone, together, strict=True))
