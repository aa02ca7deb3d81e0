"""Metrics as GLUE (Wang et al. 2018), CoNLL (Tjong Kim Sang & De Meulder 2003) and SQuAD 2.0 (Rajpurkar et al. 2018) take them.

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


def f1_of(right: float, found: float, wanted: float) -> float:
    """2 · right / (found + wanted): the harmonic mean of precision right/found and recall right/wanted."""
    return 2 * right / (found + wanted) if found + wanted else 0.0


def label_counts(found: Ids, wanted: Ids, labels: int, times: Ids | None = None) -> Numbers:
    """Count the rows of each label: answered rightly, found, wanted. Both (rows,) of ids -> (3, labels).

    labels: how many there are, or more where a larger id occurs; times: (rows,), how often each row counts, once where it is
    None.
    """
    labels = max([labels, *(1 + int(side.max(initial=-1)) for side in (found, wanted))])
    often = np.ones(len(wanted)) if times is None else times
    right = often * (found == wanted)
    sides = ((wanted, right), (found, often), (wanted, often))
    return np.stack([np.bincount(side, weights=weights, minlength=labels) for side, weights in sides])


def accuracy(counts: Numbers) -> float:
    """Share of rows that are answered rightly. counts: as `label_counts` has them, (3, labels)."""
    return float(counts[0].sum() / counts[2].sum())


def f1(counts: Numbers, positive: int) -> float:
    """F1 of one label. counts: of `label_counts`."""
    right, found, wanted = counts[:, positive].tolist()
    return f1_of(right, found, wanted)


def macro_f1(counts: Numbers) -> float:
    """Mean of the F1 of each label that occurs, in answers or in truth. counts: of `label_counts`."""
    right, found, wanted = counts[:, counts[1] + counts[2] > 0]
    return float((2 * right / (found + wanted)).mean())


def matthews(counts: Numbers) -> float:
    """Matthews' correlation (1975), for more than two labels as Gorodkin (2004) has it. counts: of `label_counts`."""
    right, (found, wanted) = counts[0].sum(), counts[1:]
    rows = wanted.sum()
    below = float(np.sqrt((rows**2 - found @ found) * (rows**2 - wanted @ wanted)))
    return float(right * rows - found @ wanted) / below if below else 0.0


def pearson(found: Numbers, wanted: Numbers) -> float:
    """Pearson's linear correlation. Both (rows,)."""
    a, b = found - found.mean(), wanted - wanted.mean()
    below = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / below if below else 0.0


def places(values: Numbers) -> Ids:
    """Number values by their order, from 0; equal ones alike. (rows,) -> (rows,)."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def ranks(at: Ids) -> Numbers:
    """Ranks from 1 of rows that stand at these places; equal ones share the mean of theirs. (rows,) -> (rows,).

    Places may be empty, so that samples of the rows are ranked without sorting them again.
    """
    counts = np.bincount(at)
    mean: Numbers = (counts.cumsum() - (counts - 1) / 2)[at]
    return mean


def spearman(found: Numbers, wanted: Numbers) -> float:
    """Spearman's correlation: Pearson's of the ranks. Both (rows,)."""
    return pearson(ranks(places(found)), ranks(places(wanted)))


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
