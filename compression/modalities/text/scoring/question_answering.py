"""Extractive question answering with "no answer", as SQuAD 2.0 judges it: exact match and F1 of words.

A context that is too long goes through the model in overlapping windows. Of all windows the best span is taken, unless "no
answer" (both ends on the first token) is more likely in every one of them (Devlin et al. 2019, with a threshold of 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from compression.modalities.scoring import metrics, standard_errors
from compression.modalities.scoring.base import Asked, Figures, Floats, Row, RowScorer
from compression.modalities.scoring.metrics import Ids, Numbers
from compression.modalities.text.inputs import ReadsTexts

LONGEST_ANSWER = 30
"""Tokens, as in BERT's own code."""


def overlap_of(length: int) -> int:
    """Say how many of a context's tokens two neighbouring windows share."""
    return length // 4


def longest_question(length: int) -> int:
    """Say how many tokens of a window a question may take; what is longer is cut."""
    return length // 2


@dataclass(frozen=True)
class Window:
    """What must be known of a window beside its tokens. offsets: (tokens, 2) characters; context: (tokens,), where it is."""

    offsets: Ids
    context: Any

    @classmethod
    def of(cls, encoding: Encoding) -> "Window":
        """Read it from a tokenized pair."""
        parts = np.array([part == 1 for part in encoding.sequence_ids])
        return cls(np.array(encoding.offsets, np.int64).reshape(-1, 2), parts)

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Find the tokens on which an answer begins and ends; (0, 0) where it is not whole in this window. In characters."""
        begins = np.flatnonzero(self.context & (self.offsets[:, 0] <= start) & (self.offsets[:, 1] > start))
        ends = np.flatnonzero(self.context & (self.offsets[:, 0] < end) & (self.offsets[:, 1] >= end))
        return (int(begins[0]), int(ends[-1])) if begins.size and ends.size else (0, 0)

    def best(self, logits: Floats) -> tuple[float, float, tuple[int, int]]:
        """Weigh "no answer" and the best span. logits: (tokens, 2) -> score of none, of the span, its characters.

        A span's score is the sum of its ends' logits. −inf where no part of the context is here.
        """
        none = float(logits[0].sum())
        where = np.flatnonzero(self.context)
        if not where.size:
            return none, -np.inf, (0, 0)
        starts, ends = logits[where, 0], logits[where, 1]
        scores = starts[:, None] + ends[None, :]
        apart = np.arange(len(where))[None, :] - np.arange(len(where))[:, None]
        scores = np.where((apart >= 0) & (apart < LONGEST_ANSWER), scores, -np.inf)
        first, last = divmod(int(scores.argmax()), len(where))
        span = int(self.offsets[where[first], 0]), int(self.offsets[where[last], 1])
        return none, float(scores[first, last]), span


def answer(windows: Sequence[Window], logits: Sequence[Floats], context: str) -> str:
    """Answer a question from all windows of its context; "" is "no answer"."""
    found = [window.best(one) for window, one in zip(windows, logits, strict=True)]
    none, (_, score, (start, end)) = min(each[0] for each in found), max(found, key=lambda each: each[1])
    return context[start:end] if score > none else ""


class Reader:
    """Tokenizes questions with their contexts to windows of at most `length` tokens. The tokenizer's own settings stay."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.most = longest_question(length)
        self.bare, self.own = (Tokenizer.from_str(tokenizer.to_str()) for _ in range(2))
        self.bare.no_truncation()
        self.bare.no_padding()
        self.own.no_padding()
        self.own.enable_truncation(length, stride=overlap_of(length), strategy="only_second")

    def read(self, questions: Sequence[str], contexts: Sequence[str]) -> Asked:
        """Make the windows of some rows."""
        windows, owners = [], []
        pairs = list(zip(self._shortened(questions), contexts, strict=True))
        for row, encoding in enumerate(self.own.encode_batch(pairs)):
            for window in (encoding, *encoding.overflowing):
                windows.append(window)
                owners.append(row)
        return Asked(windows, owners)

    def _shortened(self, questions: Sequence[str]) -> list[str]:
        """Cut questions that would leave no room for a context."""
        found = self.bare.encode_batch(list(questions), add_special_tokens=False)
        return [
            question[: one.offsets[self.most - 1][1]] if len(one.ids) > self.most else question
            for question, one in zip(questions, found, strict=True)
        ]


class QuestionScorer(ReadsTexts, RowScorer):
    """The headline is F1."""

    metric = "f1"

    def ask(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> Asked:
        """A row is as many windows as its context needs."""
        questions, contexts = ([row[name] for row in rows] for name in ("question", "context"))
        cut = tokenizer.truncation
        if cut is None:
            raise ValueError("the tokenizer does not say how long a window is")
        return Reader(tokenizer, int(cut["max_length"])).read(questions, contexts)

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:
        """A stretch of the context, or "" for none."""
        own: list[tuple[list[Window], list[Floats]]] = [([], []) for _ in rows]
        for window, row, one in zip(asked.windows, asked.owners, logits, strict=True):
            own[row][0].append(Window.of(window))
            own[row][1].append(one)
        return [answer(*each, row["context"]) for each, row in zip(own, rows, strict=True)]

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Judge texts; a row's `answers` is the list of those wanted, empty where there is none."""
        return {name: float(each.mean()) for name, each in self._by_row(answers, rows).items()}

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = standard_errors.SEED) -> Figures:
        """Each metric is a mean over rows, and so has a formula."""
        by_row = self._by_row(answers, rows)
        values = {name: float(each.mean()) for name, each in by_row.items()}
        # Of the only row of its kind nobody can tell.
        error = {name: standard_errors.of_mean(each) for name, each in by_row.items() if len(each) > 1 or name == self.metric}
        headline = by_row[self.metric]
        draws = standard_errors.resampled(lambda some: {self.metric: float(headline[some].mean())}, len(rows), seed=seed)
        chance = float(np.mean([not row["answers"] for row in rows]))
        return Figures(values, error, "analytic", chance, draws[self.metric])

    def _by_row(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, Numbers]:
        """Of every metric, the headline first, what each row is worth that it is a mean over: (rows,), or (rows of a kind,)."""
        pairs = [(found, row["answers"]) for found, row in zip(answers, rows, strict=True)]
        shared = np.array([metrics.overlap(*pair) for pair in pairs])
        answerable = np.array([bool(row["answers"]) for row in rows])
        both = {self.metric: shared, "exact_match": np.array([metrics.exact_match(*pair) for pair in pairs])}
        kinds = {"answerable": answerable, "unanswerable": ~answerable}
        apart = {f"{name}_{kind}": each[some] for kind, some in kinds.items() if some.any() for name, each in both.items()}
        return {**both, **apart}

    def shown(self, answer: Any, logits: Floats, labels: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG002
        """Return the text."""
        return {"text": answer}
