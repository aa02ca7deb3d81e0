"""Language modelling: how well a model foretells the tokens of texts. Torch-free.

A text is a cluster: its tokens are not independent of each other, so errors come from how texts differ.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.scoring import errors

Counts = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    """What a model said of each text, (texts,) each.

    tokens: how many were asked for, 1 or more; bytes: of UTF-8 that they stand for; loss: Σ −ln p of them, in nats; right: how
    many of them were the likeliest.
    """

    tokens: Counts
    bytes: Counts
    loss: Sums
    right: Counts


@dataclass(frozen=True)
class Figure:
    """A value and its standard error; None where there is one text alone."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class Figures:
    """loss: nats a token; perplexity: e to that, ∞ where that is past floating point; accuracy: share of tokens told right.

    bits_per_byte: bits of all tokens over bytes of the text they stand for, which compares models of different tokenizers.
    """

    loss: Figure
    perplexity: Figure
    bits_per_byte: Figure
    accuracy: Figure
    texts: int
    tokens: int
    bytes: int


def figures(told: Told) -> Figures:
    """Judge a model by what it said. Each token counts the same, so long texts count for more."""
    loss = _ratio(told.loss, told.tokens)
    return Figures(
        loss=loss,
        perplexity=_exponential(loss),
        bits_per_byte=_ratio(told.loss / math.log(2), told.bytes),
        accuracy=_ratio(told.right, told.tokens),
        texts=len(told.tokens),
        tokens=int(told.tokens.sum()),
        bytes=int(told.bytes.sum()),
    )


def added_loss(before: Told, after: Told) -> Figure:
    """Say by how many nats a token the loss grew, on the same tokens of the same texts.

    Its error is that of the difference, far below either loss's own: what is hard for one model is hard for the other. Raises
    ValueError where the tokens are not the same.
    """
    if not np.array_equal(before.tokens, after.tokens):
        raise ValueError("these losses are not of the same tokens")
    return _ratio(after.loss - before.loss, after.tokens)


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Figure:
    return Figure(float(above.sum() / below.sum()), errors.of_ratio(above, below))


def _exponential(one: Figure) -> Figure:
    # By the delta method: the exponential's slope is its value.
    try:
        value = math.exp(one.value)
    except OverflowError:
        return Figure(math.inf, None)
    return Figure(value, None if one.standard_error is None else value * one.standard_error)
