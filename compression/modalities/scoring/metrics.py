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


def f1_of(right: float, found: float, wanted: float) -> float:
    """Return F1 = 2 · right / (found + wanted). It is the harmonic mean of precision right/found and recall right/wanted."""
    return 2 * right / (found + wanted) if found + wanted else 0.0


def label_counts(found: Ids, wanted: Ids, labels: int, times: Ids | None = None) -> Numbers:
    """Count each label's correct, predicted and true rows. Both (rows,) of ids -> (3, labels), more if a larger id occurs."""
    labels = max([labels, *(1 + int(side.max(initial=-1)) for side in (found, wanted))])
    often = np.ones(len(wanted)) if times is None else times
    right = often * (found == wanted)
    sides = ((wanted, right), (found, often), (wanted, often))
    return np.stack([np.bincount(side, weights=weights, minlength=labels) for side, weights in sides])


def accuracy(counts: Numbers) -> float:
    """Return the share of correct rows. counts: of `label_counts`, (3, labels)."""
    return float(counts[0].sum() / counts[2].sum())


def f1(counts: Numbers, positive: int) -> float:
    """Return F1 of one label. counts: of `label_counts`."""
    right, found, wanted = counts[:, positive].tolist()
    return f1_of(right, found, wanted)


def macro_f1(counts: Numbers) -> float:
    """Return the mean F1 over the labels that occur as predictions or true labels. counts: of `label_counts`."""
    right, found, wanted = counts[:, counts[1] + counts[2] > 0]
    return float((2 * right / (found + wanted)).mean())


def matthews(counts: Numbers) -> float:
    """Return Matthews' correlation (1975); for more than two labels, Gorodkin's (2004). counts: of `label_counts`."""
    right, (found, wanted) = counts[0].sum(), counts[1:]
    rows = wanted.sum()
    below = float(np.sqrt((rows**2 - found @ found) * (rows**2 - wanted @ wanted)))
    return float(right * rows - found @ wanted) / below if below else 0.0


def pearson(found: Numbers, wanted: Numbers) -> float:
    """Return Pearson's linear correlation. Both (rows,)."""
    a, b = found - found.mean(), wanted - wanted.mean()
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


def spearman(found: Numbers, wanted: Numbers) -> float:
    """Return Spearman's correlation: Pearson's of the ranks. Both (rows,)."""
    return pearson(ranks(places(found)), ranks(places(wanted)))


Span = tuple[int, int, str]


def entities(tags: Sequence[str]) -> set[Span]:
    """Decode the entities of IOB2 tags. -> (first word, word after the last, kind) of each.

    As in the CoNLL script, an I- without a preceding tag of its kind begins an entity too. A tag without a prefix, other than
    O, counts as an entity of one word, or of more if it is repeated.
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
    """Count the entities of one row: correct (both ends and the kind), predicted, true."""
    mine, theirs = entities(found), entities(wanted)
    return len(mine & theirs), len(mine), len(theirs)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text as SQuAD compares answers: lower case, single spaces, no punctuation and no articles."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(found: str, wanted: Iterable[str]) -> float:
    """Return 1 if an answer equals a true one after normalisation, else 0; "" is "no answer" in both."""
    return max(float(normalised(found) == normalised(one)) for one in _answers(wanted))


def overlap(found: str, wanted: Iterable[str]) -> float:
    """Return the F1 of an answer's words against the nearest true answer; "" is "no answer"."""
    return max(_shared(normalised(found).split(), normalised(one).split()) for one in _answers(wanted))


def _answers(wanted: Iterable[str]) -> list[str]:
    # SQuAD drops true answers that are empty after normalisation, because no prediction can match them.
    return [one for one in wanted if normalised(one)] or [""]


def _shared(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    return f1_of(sum((Counter(found) & Counter(wanted)).values()), len(found), len(wanted))
