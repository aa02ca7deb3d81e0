"""Metrics of GLUE (Wang et al. 2018), CoNLL (Tjong Kim Sang & De Meulder 2003) and SQuAD 2.0 (Rajpurkar et al. 2018).

Pure functions of arrays and lists. If a formula divides by 0, the metric is 0, as in the original scripts.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
ROUNDED = 1e-12
"""Share of a sum of weights that is no difference."""


def f1_of(right: float, predicted: float, expected: float) -> float:
    """Return F1 = 2 · right / (predicted + expected), the harmonic mean of precision and recall."""
    return 2 * right / (predicted + expected) if predicted + expected else 0.0


def label_counts(predicted: Ids, expected: Ids, labels: int, times: Ids | None = None) -> Numbers:
    """Count each label's correct, predicted and true rows. Both (rows,) of ids -> (3, labels), more if a larger id occurs."""
    labels = max([labels, *(1 + int(side.max(initial=-1)) for side in (predicted, expected))])
    often = np.ones(len(expected)) if times is None else times
    right = often * (predicted == expected)
    sides = ((expected, right), (predicted, often), (expected, often))
    return np.stack([np.bincount(side, weights=weights, minlength=labels) for side, weights in sides])


def accuracy(counts: Numbers) -> float:
    """Return the share of correct rows. counts: of `label_counts`, (3, labels)."""
    return float(counts[0].sum() / counts[2].sum())


def balanced_accuracy(counts: Numbers) -> float:
    """Return the mean over the true labels that occur of the share of their rows that is right. counts: of `label_counts`."""
    right, _, expected = counts[:, counts[2] > 0]
    return float((right / expected).mean())


def f1(counts: Numbers, positive: int) -> float:
    """Return F1 of one label. counts: of `label_counts`."""
    right, predicted, expected = counts[:, positive].tolist()
    return f1_of(right, predicted, expected)


def macro_f1(counts: Numbers) -> float:
    """Return the mean F1 over the labels that occur as predictions or true labels. counts: of `label_counts`."""
    right, predicted, expected = counts[:, counts[1] + counts[2] > 0]
    return float((2 * right / (predicted + expected)).mean())


def matthews(counts: Numbers) -> float:
    """Return Matthews' correlation (1975); for more than two labels, Gorodkin's (2004). counts: of `label_counts`."""
    right, (predicted, expected) = counts[0].sum(), counts[1:]
    rows = expected.sum()
    spreads = [rows**2 - side @ side for side in (predicted, expected)]
    if min(spreads) <= ROUNDED * rows**2:  # one label alone
        return 0.0
    return float(right * rows - predicted @ expected) / float(np.sqrt(spreads[0] * spreads[1]))


def pearson(predicted: Numbers, expected: Numbers) -> float:
    """Return Pearson's linear correlation. Both (rows,)."""
    a, b = predicted - predicted.mean(), expected - expected.mean()
    below = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / below if below else 0.0


def places(values: Numbers) -> Ids:
    """Return each value's position in the sorted distinct values, from 0. (rows,) -> (rows,)."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def ranks(at: Ids) -> Numbers:
    """Return ranks, from 1, of rows at the positions of `places`, some of which may be empty; ties share their mean rank."""
    counts = np.bincount(at)
    mean: Numbers = (counts.cumsum() - (counts - 1) / 2)[at]
    return mean


def spearman(predicted: Numbers, expected: Numbers) -> float:
    """Return Spearman's correlation: Pearson's of the ranks. Both (rows,)."""
    return pearson(ranks(places(predicted)), ranks(places(expected)))


def weighted_ranks(values: Numbers, weights: Numbers) -> Numbers:
    """Return the ranks of rows that count by weights: the weight of what is smaller, and half of what is equal.

    values: (rows,), weights: (draws, rows) -> (draws, rows). With weights of 1 they are `ranks` − ½.
    """
    at = places(values)
    order = np.argsort(at, kind="stable")
    equal = np.add.reduceat(weights[:, order], np.searchsorted(at[order], np.arange(at.max() + 1)), axis=1)
    ranked: Numbers = (equal.cumsum(axis=1) - equal / 2)[:, at]
    return ranked


def weighted_pearson(predicted: Numbers, expected: Numbers, weights: Numbers) -> Numbers:
    """Return Pearson's correlation of rows that count by weights. Each (rows,) or (draws, rows) -> (draws,)."""
    whole = weights.sum(axis=1, keepdims=True)
    a, b = (side - (weights * side).sum(axis=1, keepdims=True) / whole for side in (predicted, expected))
    below = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    found: Numbers = np.divide((weights * a * b).sum(axis=1), below, out=np.zeros_like(below), where=below > 0)
    return found


Span = tuple[int, int, str]


def entities(tags: Sequence[str]) -> set[Span]:
    """Decode the entities of IOB2 tags. -> (first word, word after the last, kind) of each.

    As in the CoNLL script, an I- without a preceding tag of its kind begins an entity too. A tag without a prefix, other than
    O, counts as an entity of one word, or of more if it is repeated.
    """
    spans: set[Span] = set()
    start, kind = 0, None
    for number, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-") if tag[:2] in ("B-", "I-") else ("O" if tag == "O" else "I", "", tag)
        begins = prefix == "B" or (prefix == "I" and name != kind)
        if kind is not None and (prefix == "O" or begins):
            spans.add((start, number, kind))
            kind = None
        if begins:
            start, kind = number, name
    return spans


def entity_counts(predicted: Sequence[str], expected: Sequence[str]) -> tuple[int, int, int]:
    """Count the entities of one row: correct (both ends and the kind), predicted, true."""
    mine, theirs = entities(predicted), entities(expected)
    return len(mine & theirs), len(mine), len(theirs)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text as SQuAD compares answers: lower case, single spaces, no punctuation and no articles."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, expected: Iterable[str]) -> float:
    """Return 1 if an answer equals a true one after normalisation, else 0; "" is "no answer" in both."""
    return max(float(normalised(predicted) == normalised(one)) for one in _answers(expected))


def overlap(predicted: str, expected: Iterable[str]) -> float:
    """Return the F1 of an answer's words against the nearest true answer; "" is "no answer"."""
    return max(_shared(normalised(predicted).split(), normalised(one).split()) for one in _answers(expected))


def _answers(expected: Iterable[str]) -> list[str]:
    # SQuAD drops true answers that are empty after normalisation, because no prediction can match them.
    return [one for one in expected if normalised(one)] or [""]


def _shared(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    return f1_of(sum((Counter(predicted) & Counter(expected)).values()), len(predicted), len(expected))
