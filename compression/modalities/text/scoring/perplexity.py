"""Language modelling scores. Tokens of a text depend on each other, so errors come from texts' variation. Torch-free."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from compression.modalities.scoring import paired, standard_errors
from compression.modalities.scoring.base import TOGETHER, Asked, Floats, Inputs, Row, Scored, SplitScoring
from compression.modalities.scoring.row_sample import WHOLE, ScoringLimit, sampling_order
from compression.modalities.text.decoding import Decoder, pieces
from compression.modalities.text.inputs import Ask, ReadsTexts, TextReader, batch_of
from compression.modalities.text.text_reader import encoder, read, stretches
from compression.schema.report.draws import Draws
from compression.schema.report.gate import PairedDrop
from compression.schema.report.measurements import Score

Counts = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]
METRIC = "perplexity"
LARGEST = math.log(1e300)  #: nats per token above which the reported perplexity is 1e300: JSON has no infinity
PLACES = 256  #: positions whose logits are summed together, in float64
LOGITS_BYTES = 1 << 29
"""Maximum size of logits in memory. Two windows always share a batch, run in pieces if their logits are larger."""
SAMPLE_BYTES, SHORT = 1 << 25, 24
"""The same for a sample that verifies an artifact, and the tokens of its shortest row; each other row is one longer."""
SHORTEST = 2  #: fewest tokens of a row that can be read partly at once and partly one by one
FEWEST_WINDOWS = 32  #: of the smallest sample of texts, however long they take
SAME = 1e-2  #: a window's result changes if its loss differs by more nats per token; sums in another order change it less


@dataclass(frozen=True)
class WindowLosses:
    """A model's losses on each text, (texts,) each."""

    tokens: Counts  #: number of scored tokens, 1 or more
    bytes: Counts  #: of UTF-8 that they stand for
    loss: Sums  #: Σ −ln p of them, in nats
    right: Counts  #: how many of them were the most likely


@dataclass(frozen=True)
class Figure:
    """A value and its standard error; None if there is only one text."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class Figures:
    """The metrics of a language model."""

    loss: Figure  #: nats per token
    perplexity: Figure  #: e to that, at most 1e300
    bits_per_byte: Figure  #: bits of all tokens over bytes of their text, which compares models with different tokenizers
    accuracy: Figure  #: share of tokens predicted correctly
    texts: int
    tokens: int
    bytes: int


def figures(losses: WindowLosses) -> Figures:
    """Compute the metrics from a model's losses. Each token counts the same, so long texts count for more."""
    loss, sizes = _ratio(losses.loss, losses.tokens), (len(losses.tokens), int(losses.tokens.sum()), int(losses.bytes.sum()))
    bits_per_byte, accuracy = _ratio(losses.loss / math.log(2), losses.bytes), _ratio(losses.right, losses.tokens)
    return Figures(loss, _exponential(loss), bits_per_byte, accuracy, *sizes)


def draws(losses: WindowLosses, seed: int = standard_errors.SEED) -> Sums:
    """Return the perplexity on the samples of the texts of `standard_errors.resampled`, (RESAMPLES,)."""

    def perplexity(some: Counts) -> dict[str, float]:
        return {METRIC: math.exp(min(float(losses.loss[some].sum() / losses.tokens[some].sum()), LARGEST))}

    return standard_errors.resampled(perplexity, len(losses.tokens), seed=seed)[METRIC]


def added_loss(before: WindowLosses, after: WindowLosses) -> Figure:
    """Return the increase of the loss in nats per token, with the difference's error. Raises ValueError for other tokens."""
    if not np.array_equal(before.tokens, after.tokens):
        raise ValueError("these losses are not of the same tokens")
    return _ratio(after.loss - before.loss, after.tokens)


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Figure:
    return Figure(float(above.sum() / below.sum()), standard_errors.of_ratio(above, below))


def _exponential(one: Figure) -> Figure:
    # By the delta method: the exponential's slope is its value.
    if one.value > LARGEST:
        return Figure(math.exp(LARGEST), None)
    value = math.exp(one.value)
    return Figure(value, None if one.standard_error is None else value * one.standard_error)


def chance(following: Iterable[Sequence[int]]) -> float:
    """Return the perplexity of a unigram model. following: the scored tokens, window by window, each once."""
    _, counts = np.unique(np.concatenate([np.asarray(each) for each in following]), return_counts=True)
    shares = counts / counts.sum()
    return math.exp(-(shares * np.log(shares)).sum())


@dataclass(frozen=True)
class Window:
    """Tokens that a model reads at once, and the next tokens to score."""

    text: int  #: index of its text
    ids: list[int]  #: the input tokens
    at: int  #: the first scored position, where every later one is scored too
    following: list[int]  #: the next token at each of these positions
    bytes: int = 0  #: of the whole text, set only on its first window


OTHER_TOKENS = (
    "the artifact reads the texts as other tokens than the original, so losses of tokens do not pair, however many rows"
)


@dataclass(frozen=True)
class LanguageScorer(ReadsTexts):
    """Scores perplexity in windows of `length` tokens with a stride of `stride`, each token once."""

    length: int
    stride: int
    metric: str = METRIC
    next_tokens: ClassVar[bool] = True

    def windows(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Window]:
        """Tokenize texts with an artifact's own tokenizer, without truncation. Texts without a scored token are left out."""
        texts = [one for one in read((row["text"] for row in rows), encoder(tokenizer)) if one is not None]
        spans = [(0, len(text.ids), text.tail) for text in texts]
        found, seen = [], set[int]()
        for number, (start, end, first) in stretches(spans, texts[0].lead if texts else 1, self.length, self.stride):
            text = texts[number]
            own = text.bytes if number not in seen else 0
            seen.add(number)
            found.append(Window(number, text.ids[start:end], first - 1 - start, text.ids[first : end + 1], own))
        return found

    def asking(self, tokenizer: Tokenizer) -> Ask:
        """Return what makes windows; the owner of each is its text, counted among those with a scored token."""

        def ask(rows: Sequence[Row]) -> Asked:
            found = self.windows(tokenizer, rows)
            return Asked(list(found), [one.text for one in found])

        return ask

    def sample(self, reader: TextReader, rows: Sequence[Row], outputs: int) -> list[Inputs]:
        """Return the beginnings of windows, as many as fit SAMPLE_BYTES; one by one, then in one batch."""
        windows = self.windows(reader.tokenizer, rows)
        most = max(SAMPLE_BYTES // (4 * outputs), 2 * SHORT)
        found = [one.ids[: SHORT + number] for number, one in enumerate(windows[: most // (2 * SHORT) + 1])]
        if max(map(len, found), default=0) < SHORTEST:  # texts without words: any tokens will do
            found.append([number % outputs for number in range(1, SHORT + 1)])
        return [*(batch_of([row]) for row in found), batch_of(found, reader.pad_id)]

    def drop(self, before: Sums, after: Sums, confidence: float, seed: int) -> PairedDrop:  # noqa: ARG002
        """Return how many nats a token the loss rises. before, after: loss and tokens of each text. Raises UnpairedRows if the
        models read other tokens.
        """
        paired.check_pairs(before[:, 1], after[:, 1], OTHER_TOKENS)
        return paired.drop_of_ratio(after[:, 0] - before[:, 0], before[:, 1], confidence)

    def open_split(
        self, runner: Decoder, reader: TextReader, rows: Sequence[Row], seed: int = 0, limit: ScoringLimit = WHOLE
    ) -> SplitScoring:
        """Tokenize texts, to score them window by window. Raises ValueError if no token is scored."""
        windows, pad_id = self.windows(reader.tokenizer, rows), reader.pad_id
        if not windows:
            raise ValueError("these texts have no token to score")
        room = LOGITS_BYTES // (4 * runner.logits(batch_of([windows[0].ids[:1]])).shape[-1])  # positions
        # Windows are long and their logits wide, so only the first ones are run again in one batch.
        most = min(TOGETHER, max(room // self.length, 2))
        texts = Asked(list(windows), [one.text for one in windows]).by_row(windows[-1].text + 1)
        order = sampling_order([None] * len(texts), seed)[: limit.rows]
        total = sum(len(texts[text]) for text in order)
        both = total + min(most, total)

        def answer(more: Callable[[int], None]) -> Scored:
            found = dict[int, list[tuple[float, int]]]()
            for text in limit.taken(order, fewest=_fewest(texts, order), share=total / both):
                found[text] = []
                for one in texts[text]:
                    found[text] += _losses(runner, [one], pad_id, room)
                    more(1)
            own = sorted(found)
            some = [replace(window, text=at) for at, text in enumerate(own) for window in texts[text]]
            count = min(most, len(some))
            again = _losses(runner, some[:count], pad_id, room)
            more(both - len(some))
            losses = [loss for text in own for loss in found[text]]
            return _scored(self.metric, some, losses, again, seed, of=len(texts))

        return SplitScoring(both, answer)


def _fewest(texts: Sequence[Sequence[Window]], order: Sequence[int]) -> int:
    """Return how many texts of an order have the fewest windows that are scored, FEWEST_WINDOWS, together."""
    sizes = accumulate(len(texts[text]) for text in order)
    return next((number for number, windows in enumerate(sizes, 1) if windows >= FEWEST_WINDOWS), len(order))


def part_of(window: Window, start: int, stop: int) -> Window | None:
    """Return a window's part from position `start` to before `stop`, or None if nothing in it is scored."""
    first, end = max(window.at, start), min(window.at + len(window.following), stop)
    if first >= end:
        return None
    following = window.following[first - window.at : end - window.at]
    return Window(window.text, window.ids[start:stop], first - start, following)


def score_window(window: Window, logits: Floats) -> tuple[float, int]:
    """Score a window's logits, (tokens, vocabulary) -> Σ −ln p in nats, and how many tokens were the most likely."""
    loss, right = 0.0, 0
    for start in range(0, len(window.following), PLACES):
        wanted = np.asarray(window.following[start : start + PLACES])
        some = logits[window.at + start : window.at + start + len(wanted)].astype(np.float64)
        some -= some.max(axis=-1, keepdims=True)
        given = np.take_along_axis(some, wanted[:, None], axis=-1)[:, 0]
        loss += float((np.log(np.exp(some).sum(axis=-1)) - given).sum())
        right += int((some.argmax(axis=-1) == wanted).sum())
    return loss, right


def summed(windows: Sequence[Window], scores: Sequence[tuple[float, int]]) -> WindowLosses:
    """Sum the scores of windows, each of `score_window`, text by text."""
    columns = [(len(window.following), window.bytes, *score) for window, score in zip(windows, scores, strict=True)]
    texts = [window.text for window in windows]
    tokens, sizes, nats, hits = (np.bincount(texts, weights=column) for column in zip(*columns, strict=True))
    return WindowLosses(tokens.astype(np.int64), sizes.astype(np.int64), nats.astype(np.float64), hits.astype(np.int64))


def _losses(runner: Decoder, windows: Sequence[Window], pad_id: int, room: int) -> list[tuple[float, int]]:
    """Run windows in one batch, in pieces of at most `room` positions -> the scores of `score_window`."""
    losses, right = [0.0] * len(windows), [0] * len(windows)
    for start, logits in pieces(runner, batch_of([one.ids for one in windows], pad_id), max(room // len(windows), 1)):
        for number, window in enumerate(windows):
            part = part_of(window, start, start + logits.shape[1])
            if part is not None:
                loss, hits = score_window(part, logits[number])
                losses[number], right[number] = losses[number] + loss, right[number] + hits
    return list(zip(losses, right, strict=True))


def _scored(
    metric: str, windows: Sequence[Window], found: list[tuple[float, int]], again: list[tuple[float, int]], seed: int, of: int
) -> Scored:
    """Build the score from all windows' losses. again: those of the first windows in one batch; of: texts of the split."""
    losses = summed(windows, found)
    other = figures(summed(windows, [*again, *found[len(again) :]]))
    changed = {
        one.text
        for one, (alone, _), (together, _) in zip(windows, found, again, strict=False)
        if abs(alone - together) > SAME * len(one.following)
    }
    own = figures(losses)
    perplexity = own.perplexity.value
    named = {metric: own.perplexity, "loss": own.loss, "bits_per_byte": own.bits_per_byte, "next_token_accuracy": own.accuracy}
    errors = {name: figure.standard_error for name, figure in named.items() if figure.standard_error is not None}
    score = Score(
        metric=metric,
        value=perplexity,
        lower_is_better=True,
        # If no error is known, 0 would claim certainty. The error is then the value itself: one nat in its logarithm.
        standard_error=errors.get(metric, perplexity),
        metrics={name: figure.value for name, figure in named.items()},
        standard_errors=errors,
        value_at_batch_32=other.perplexity.value,
        rows=own.texts,
        split_rows=of if own.texts < of else None,
        rows_changed_by_batching=len(changed),
        chance=chance([one.following for one in windows]),
    )
    drawn = Draws(rows=own.texts, seed=seed, values=tuple(draws(losses, seed).tolist()))
    return Scored(score, drawn, lambda: np.stack([losses.loss, losses.tokens], axis=1))
