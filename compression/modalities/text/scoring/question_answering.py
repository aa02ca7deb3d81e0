"""Question answering scores with "no answer", as in SQuAD 2.0: exact match and F1 of words.

A context that is too long is read in overlapping windows. The answer is the best span of all windows, unless "no answer" (both
ends on the first token) is more likely in every window (Devlin et al. 2019, with a threshold of 0).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from compression.modalities.scoring import metrics, paired, standard_errors
from compression.modalities.scoring.base import Asked, Figures, Floats, Row, RowScorer
from compression.modalities.scoring.metrics import Ids, Numbers
from compression.modalities.text.inputs import Ask, ReadsTexts
from compression.schema.report.gate import PairedDrop

LONGEST_ANSWER = 30  #: maximum tokens of an answer, as in BERT's own code


def overlap_of(length: int) -> int:
    """Return how many of a context's tokens two neighbouring windows share."""
    return length // 4


def longest_question(length: int) -> int:
    """Return how many tokens of a window a question may take; longer questions are truncated."""
    return length // 2


@dataclass(frozen=True)
class Window:
    """A window's characters of each token, (tokens, 2), and the mask of the context's tokens, (tokens,)."""

    offsets: Ids
    context: Any

    @classmethod
    def of(cls, encoding: Encoding) -> "Window":
        """Create it from a tokenized pair."""
        parts = np.array([part == 1 for part in encoding.sequence_ids])
        return cls(np.array(encoding.offsets, np.int64).reshape(-1, 2), parts)

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return the tokens where an answer, in characters of the context, begins and ends; (0, 0) if it is not whole here."""
        begins = np.flatnonzero(self.context & (self.offsets[:, 0] <= start) & (self.offsets[:, 1] > start))
        ends = np.flatnonzero(self.context & (self.offsets[:, 0] < end) & (self.offsets[:, 1] >= end))
        return (int(begins[0]), int(ends[-1])) if begins.size and ends.size else (0, 0)

    def best(self, logits: Floats) -> tuple[float, float, tuple[int, int]]:
        """Score "no answer" and the best span. logits: (tokens, 2) -> score of none, of the span, its characters.

        A span's score is the sum of its ends' logits, or −inf if the window has no part of the context.
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
    """Return the answer to a question from all windows of its context; "" is "no answer"."""
    found = [window.best(one) for window, one in zip(windows, logits, strict=True)]
    none, (_, score, (start, end)) = min(each[0] for each in found), max(found, key=lambda each: each[1])
    # Byte-level tokens may begin with the space before their word.
    return context[start:end].strip() if score > none else ""


class Reader:
    """Tokenizes questions with their contexts into windows of at most `length` tokens, with a copy of the tokenizer."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.most = longest_question(length)
        self.bare, self.own = (Tokenizer.from_str(tokenizer.to_str()) for _ in range(2))
        self.bare.no_truncation()
        self.bare.no_padding()
        self.own.no_padding()
        self.own.enable_truncation(length, stride=overlap_of(length), strategy="only_second")

    def read(self, questions: Sequence[str], contexts: Sequence[str]) -> Asked:
        """Return the windows of some rows."""
        windows, owners = [], []
        pairs = list(zip(self._shortened(questions), contexts, strict=True))
        for row, encoding in enumerate(self.own.encode_batch(pairs)):
            for window in (encoding, *encoding.overflowing):
                windows.append(window)
                owners.append(row)
        return Asked(windows, owners)

    def _shortened(self, questions: Sequence[str]) -> list[str]:
        """Truncate questions that would leave no room for a context."""
        found = self.bare.encode_batch(list(questions), add_special_tokens=False)
        return [
            question[: one.offsets[self.most - 1][1]] if len(one.ids) > self.most else question
            for question, one in zip(questions, found, strict=True)
        ]


class QuestionScorer(ReadsTexts, RowScorer):
    """Scores question answering; the headline metric is F1."""

    metric = "f1"

    def asking(self, tokenizer: Tokenizer) -> Ask:
        """Return what tokenizes rows; each has as many windows as its context needs."""
        cut = tokenizer.truncation
        if cut is None:
            raise ValueError("the tokenizer truncates nothing, so a window has no length")
        reader = Reader(tokenizer, int(cut["max_length"]))
        return lambda rows: reader.read([row["question"] for row in rows], [row["context"] for row in rows])

    def stratum(self, row: Row) -> Hashable:
        """Return whether the row has an answer."""
        return bool(row["answers"])

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:
        """Return a span of the context for each row, or "" for no answer."""
        own: list[tuple[list[Window], list[Floats]]] = [([], []) for _ in rows]
        for window, row, one in zip(asked.windows, asked.owners, logits, strict=True):
            own[row][0].append(Window.of(window))
            own[row][1].append(one)
        return [answer(*each, row["context"]) for each, row in zip(own, rows, strict=True)]

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Score texts; a row's `answers` lists the true answers, and is empty if there is none."""
        return {name: float(each.mean()) for name, each in self._by_row(answers, rows).items()}

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = standard_errors.SEED) -> Figures:
        """Return the metrics; each is a mean over rows, so its error has a formula."""
        by_row = self._by_row(answers, rows)
        values = {name: float(each.mean()) for name, each in by_row.items()}
        # A kind with a single row has no error estimate.
        error = {name: standard_errors.of_mean(each) for name, each in by_row.items() if len(each) > 1 or name == self.metric}
        headline = by_row[self.metric]
        draws = standard_errors.resampled(lambda some: {self.metric: float(headline[some].mean())}, len(rows), seed=seed)
        chance = float(np.mean([not row["answers"] for row in rows]))
        return Figures(values, error, "analytic", chance, draws[self.metric])

    def by_row(self, answers: Sequence[Any], rows: Sequence[Row]) -> Numbers | None:
        """Return F1 of the words of each row's answer."""
        return self._by_row(answers, rows)[self.metric][:, None]

    def drop(self, before: Numbers, after: Numbers, confidence: float, seed: int) -> PairedDrop:
        """Return how much worse F1 is: a mean over rows."""
        return paired.drop_of_mean(before[:, 0] - after[:, 0], confidence, seed)

    def _by_row(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, Numbers]:
        """Return each metric's values, which it is the mean of, the headline's first: (rows,), or (rows of a kind,)."""
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
