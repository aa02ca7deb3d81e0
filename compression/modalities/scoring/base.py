"""Runs and scores an artifact, whatever its rows are: the common part of all tasks' scorers. Torch-free."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from compression.modalities.scoring.metrics import Numbers
from compression.modalities.scoring.paired import UnpairedRows
from compression.modalities.scoring.row_sample import WHOLE, ScoringLimit, sampling_order
from compression.schema.report.draws import Draws
from compression.schema.report.gate import PairedDrop
from compression.schema.report.measurements import Score

Floats = npt.NDArray[np.float32]
Row = dict[str, Any]  #: a line of the measuring process's file: a row's input, and its label in the format of its task's scorer
TOGETHER = 32  #: batch size of the second measurement of a score
ALONE = 0.5  #: share of a split's time for the first one, which decides how many rows both have


class Inputs(Protocol):
    """A batch for a runtime."""

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by input name, the first dimension the rows; a model takes the inputs that it has."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and number of positions of each."""

    def real(self, logits: Floats) -> Floats:
        """Return the logits without those of padding."""


AnyInputs = TypeVar("AnyInputs", contravariant=True, bound=Inputs)


@dataclass(frozen=True)
class Declared:
    """An input or output as a file declares it."""

    name: str
    dtype: str  #: as NumPy names it
    sizes: tuple[int | str | None, ...]  #: of its dimensions; of one that takes any size its name, or None without a name


class Runner(Protocol[AnyInputs]):
    """An artifact, opened by its own runtime."""

    name: str  #: runtime, version and device, as the report names them

    def logits(self, batch: AnyInputs) -> Floats:
        """Return one batch's logits: (rows, labels), (rows, positions, labels), or (rows, positions, 2) for starts and ends."""


@dataclass(frozen=True)
class Asked:
    """Rows as windows, one per row except for long contexts. `owners[i]` is the row of window i."""

    windows: list[Any]
    owners: list[int]

    def by_row(self, rows: int) -> list[list[Any]]:
        """Return the windows of each of so many rows."""
        found: list[list[Any]] = [[] for _ in range(rows)]
        for window, owner in zip(self.windows, self.owners, strict=True):
            found[owner].append(window)
        return found


class ArtifactReader(Protocol):
    """Encodes rows with an artifact's own preprocessor files."""

    def example(self, rows: int, length: int) -> Inputs:
        """Make a full batch to measure latency on. length: positions of a row, if they are dynamic."""

    def ask(self, rows: Sequence[Row]) -> Asked:
        """Encode rows."""

    def batches(self, windows: Sequence[Any], size: int) -> Iterator[Inputs]:
        """Yield batches of `size` windows, in order."""

    def answered(self, window: Any, logits: Floats) -> Floats:
        """Return the logits without those of padding. logits: of one window of a batch."""


@dataclass(frozen=True)
class Figures:
    """The metrics of a set of predictions."""

    values: dict[str, float]  #: the headline metric and the task's others
    standard_errors: dict[str, float]  #: of each value, except for a mean over a kind of rows that has only one row
    error_from: Literal["analytic", "bootstrap"]  #: the source of the headline metric's error
    chance: float
    draws: npt.NDArray[np.float64]  #: the headline metric on the samples of `standard_errors.resampled`


@dataclass(frozen=True)
class Scored:
    """A score, and the headline metric on resamples of the rows."""

    score: Score
    draws: Draws
    by_row: Callable[[], Numbers | None] = field(compare=False)
    """Computes what `Scorer.drop` reads, (rows, columns); None if it reads nothing."""


@dataclass(frozen=True)
class SplitScoring:
    """A split that is ready to be scored. `answer` runs it, and calls its argument with each batch's number of windows; those
    that it leaves out, because time is over, count as run.
    """

    windows: int
    answer: Callable[[Callable[[int], None]], Scored]


class Scorer(Protocol):
    """Scores one task."""

    @property
    def metric(self) -> str:
        """The headline metric."""

    @property
    def next_tokens(self) -> bool:
        """Whether each position predicts the next token's distribution, which is also computed step by step."""

    def reader(self, folder: Path, pad_id: int | None = None) -> ArtifactReader:
        """Open the reader of an artifact's own files. pad_id: replaces the one in its config."""

    def open_split(
        self, runner: Any, reader: Any, rows: Sequence[Row], seed: int = 0, limit: ScoringLimit = WHOLE
    ) -> SplitScoring:
        """Encode a split for an artifact. seed: of the rows' resamples and of their order, whose beginning is scored if a limit
        is reached. Raises ValueError if nothing is scored.
        """

    def drop(self, before: Numbers, after: Numbers, confidence: float, seed: int) -> PairedDrop:
        """Return how much worse the headline metric is, bounded by the method that fits it. before, after: `Scored.by_row` of
        the original and of a compressed model. seed: of the method's samples. Raises UnpairedRows.
        """

    def sample(self, reader: Any, rows: Sequence[Row], outputs: int) -> list[Inputs]:
        """Return the inputs that verify an artifact: single rows, then all in a batch. outputs: the width of its logits."""


class RowScorer:
    """Base class for tasks that predict each row on its own; the task implements the rest."""

    next_tokens: ClassVar[bool] = False
    metric: str  #: the headline metric

    def reader(self, folder: Path, pad_id: int | None = None) -> ArtifactReader:
        """Open the reader of an artifact's own files."""
        raise NotImplementedError

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:
        """Decode predictions from each window's logits, without those of padding. -> one for each row."""
        raise NotImplementedError

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Score the predictions for all rows by the headline metric and the task's others."""
        raise NotImplementedError

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = 0) -> Figures:
        """Return each value with its standard error. seed: of the samples of the rows."""
        raise NotImplementedError

    def by_row(self, answers: Sequence[Any], rows: Sequence[Row]) -> Numbers | None:  # noqa: ARG002
        """Return what `drop` reads of each row, (rows, columns); None if the task has no paired test."""
        return None

    def drop(self, before: Numbers, after: Numbers, confidence: float, seed: int) -> PairedDrop:  # noqa: ARG002
        """Return how much worse the headline metric is. before, after: of `by_row`. Raises UnpairedRows."""
        raise UnpairedRows(f"there is no paired test of {self.metric}")

    def changed(self, alone: Sequence[Any], together: Sequence[Any]) -> int:
        """Return the number of rows whose predictions differ."""
        return sum(one != other for one, other in zip(alone, together, strict=True))

    def shown(self, answer: Any, logits: Floats, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return a prediction as keys of `schema.prediction.Answer`. logits: of its first window."""
        raise NotImplementedError

    def predictions(
        self, runner: Runner[Any], reader: ArtifactReader, rows: Sequence[Row], labels: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        """Predict some rows, each alone -> for each what `shown` returns."""
        asked = reader.ask(rows)
        logits = answered(runner, reader, asked.windows, 1)
        answers = self.answers(asked, logits, rows)
        return [self.shown(answer, logits[asked.owners.index(row)], labels) for row, answer in enumerate(answers)]

    def stratum(self, row: Row) -> Hashable:  # noqa: ARG002 (tasks without classes have one)
        """Return what a sample of the rows has in the same share as all of them, such as a label."""
        return None

    def open_split(
        self, runner: Runner[Any], reader: ArtifactReader, rows: Sequence[Row], seed: int = 0, limit: ScoringLimit = WHOLE
    ) -> SplitScoring:
        """Encode a split, to score it at batch 1 and padded at batch 32."""
        order = sampling_order([self.stratum(row) for row in rows], seed)[: limit.rows]
        numbers = sorted(order)
        given = [rows[number] for number in numbers]
        asked, places = reader.ask(given), {number: place for place, number in enumerate(numbers)}
        windows = asked.by_row(len(given))

        def answer(more: Callable[[int], None]) -> Scored:
            drawn = limit.taken_in_pieces([places[number] for number in order], share=ALONE)
            logits = {place: answered(runner, reader, windows[place], 1, more) for place in drawn}
            left = [place for place in range(len(given)) if place not in logits]
            if left:
                more(2 * sum(len(windows[place]) for place in left))
            own = sorted(logits)
            pairs = [(window, at) for at, place in enumerate(own) for window in windows[place]]
            some = Asked([window for window, _ in pairs], [at for _, at in pairs])
            scored = [given[place] for place in own]
            alone = self.answers(some, [one for place in own for one in logits[place]], scored)
            together = self.answers(some, answered(runner, reader, some.windows, TOGETHER, more), scored)
            return self._scored(alone, together, scored, len(rows), seed)

        return SplitScoring(2 * len(asked.windows), answer)

    def _scored(self, alone: Sequence[Any], together: Sequence[Any], rows: Sequence[Row], of: int, seed: int) -> Scored:
        """Return the score of rows from their answers at batch 1 and at batch 32. of: how many rows the split has."""
        figures = self.figures(alone, rows, seed)
        score = Score(
            metric=self.metric,
            value=figures.values[self.metric],
            standard_error=figures.standard_errors[self.metric],
            error_from=figures.error_from,
            metrics=figures.values,
            standard_errors=figures.standard_errors,
            value_at_batch_32=self.values(together, rows)[self.metric],
            rows=len(rows),
            split_rows=of if len(rows) < of else None,
            rows_changed_by_batching=self.changed(alone, together),
            chance=figures.chance,
        )
        draws = Draws(rows=len(rows), seed=seed, values=tuple(figures.draws.tolist()))
        return Scored(score, draws, lambda: self.by_row(alone, rows))

    def sample(self, reader: ArtifactReader, rows: Sequence[Row], outputs: int) -> list[Inputs]:  # noqa: ARG002
        """Return each row alone, then all in one batch."""
        windows = reader.ask(rows).windows
        return [*reader.batches(windows, 1), *reader.batches(windows, len(windows))]


def answered(
    runner: Runner[Any], reader: ArtifactReader, windows: Sequence[Any], size: int, tell: Callable[[int], None] = lambda _: None
) -> list[Floats]:
    """Run windows in batches of `size` -> each one's logits without padding. `tell` gets each batch's number of windows."""
    found: list[Floats] = []
    for batch in reader.batches(windows, size):
        found.extend(runner.logits(batch))
        tell(batch.shape[0])
    return [reader.answered(window, row) for window, row in zip(windows, found, strict=True)]


def stacked(runner: Runner[Any], asked: Sequence[Inputs]) -> Floats:
    """Run batches. -> (rows of all batches, labels), or (real positions of all batches, ...)"""
    return np.concatenate([batch.real(runner.logits(batch)) for batch in asked])


def softmax(logits: Floats) -> list[float]:
    """Return the probabilities of logits."""
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    return [float(power) for power in powers / powers.sum()]
