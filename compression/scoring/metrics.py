"""Metrics as GLUE (Wang et al. 2019), CoNLL (Tjong Kim Sang & De Meulder 2003) and SQuAD 2.0 (Rajpurkar et al. 2018) take them.

Pure functions of arrays and lists. Where a formula divides by nothing (no positives, a constant side), the metric is 0, as in
the original scripts.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


def accuracy(found: Ids, wanted: Ids) -> float:
    """Share of rows that are answered rightly. Both (rows,)."""
    return float((found == wanted).mean())


def f1_of(right: float, found: float, wanted: float) -> float:
    """2 · right / (found + wanted): the harmonic mean of precision right/found and recall right/wanted."""
    return 2 * right / (found + wanted) if found + wanted else 0.0


def f1(found: Ids, wanted: Ids, positive: int) -> float:
    """F1 of one label. Both (rows,) of ids."""
    hits, said, true = (found == positive) & (wanted == positive), found == positive, wanted == positive
    return f1_of(float(hits.sum()), float(said.sum()), float(true.sum()))


def macro_f1(found: Ids, wanted: Ids, labels: int) -> float:
    """Mean of the F1 of each label that occurs, in answers or in truth."""
    occurring = [label for label in range(labels) if (found == label).any() or (wanted == label).any()]
    return float(np.mean([f1(found, wanted, label) for label in occurring]))


def matthews(found: Ids, wanted: Ids, labels: int) -> float:
    """Matthews' correlation (1975), for more than two labels as Gorodkin (2004) has it. Both (rows,) of ids."""
    said, true = (np.bincount(side, minlength=labels).astype(np.float64) for side in (found, wanted))
    rows, right = float(len(wanted)), float((found == wanted).sum())
    below = float(np.sqrt((rows**2 - said @ said) * (rows**2 - true @ true)))
    return (right * rows - float(said @ true)) / below if below else 0.0


def pearson(found: Numbers, wanted: Numbers) -> float:
    """Pearson's linear correlation. Both (rows,)."""
    a, b = found - found.mean(), wanted - wanted.mean()
    below = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / below if below else 0.0


def ranks(values: Numbers) -> Numbers:
    """Ranks from 1; equal values share the mean of theirs. (rows,) -> (rows,)."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    mean: Numbers = (last - (counts - 1) / 2)[places].astype(np.float64)
    return mean


def spearman(found: Numbers, wanted: Numbers) -> float:
    """Spearman's correlation: Pearson's of the ranks. Both (rows,)."""
    return pearson(ranks(found), ranks(wanted))


Span = tuple[int, int, str]


def entities(tags: Sequence[str]) -> set[Span]:
    """Read the entities out of IOB2 tags. -> (first word, word after the last, kind) of each.

    As the CoNLL script does, an I- that nothing of its kind precedes begins an entity too, so that whatever a model
    answers means something. A tag without a prefix other than O counts as an entity of one word, or longer where repeated.
    """
    found: set[Span] = set()
    start, kind = 0, None
    for number, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-") if tag[:2] in ("B-", "I-") else ("O" if tag == "O" else "I", "", tag)
        begins = prefix == "B" or (prefix == "I" and name != kind)
        if kind is not None and (prefix == "O" or begins):
            found.add((start, number, kind))
            kind = None
        if begins:
            start, kind = number, name
    return found


def entity_counts(found: Sequence[str], wanted: Sequence[str]) -> tuple[int, int, int]:
    """Count entities of one row: those that are right in both ends and kind, those found, those wanted."""
    mine, theirs = entities(found), entities(wanted)
    return len(mine & theirs), len(mine), len(theirs)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower-case, without punctuation, articles and more than single spaces: SQuAD's way to compare answers."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(found: str, wanted: Iterable[str]) -> float:
    """Say whether an answer is one of those wanted, once normalised; "" stands for "no answer" on both sides."""
    return max(float(normalised(found) == normalised(one)) for one in _answers(wanted))


def overlap(found: str, wanted: Iterable[str]) -> float:
    """F1 of the words that an answer shares with that answer wanted which it is nearest to; "" stands for "no answer"."""
    return max(_shared(normalised(found).split(), normalised(one).split()) for one in _answers(wanted))


def _answers(wanted: Iterable[str]) -> list[str]:
    # Answers of which normalising leaves nothing cannot be given, so SQuAD drops them.
    return [one for one in wanted if normalised(one)] or [""]


def _shared(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    return f1_of(sum((Counter(found) & Counter(wanted)).values()), len(found), len(wanted))
