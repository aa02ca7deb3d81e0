"""How an artifact is asked and judged, whatever its rows are: what all tasks' scorers have in common. Torch-free."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from compression.schema.report.draws import Draws
from compression.schema.report.measurements import Score

Floats = npt.NDArray[np.float32]
Row = dict[str, Any]
"""A line of the measuring process's file: a row's input, and the label in the form that its task's scorer reads."""
TOGETHER = 32
"""Rows that share a batch when a score is taken for the second time."""


class Inputs(Protocol):
    """A batch for a runtime."""

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By the names of a model's inputs, the first dimension the rows; a model takes those that it has."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and positions of each."""

    def real(self, logits: Floats) -> Floats:
        """Leave out what answers padding."""


AnyInputs = TypeVar("AnyInputs", contravariant=True, bound=Inputs)


class Runner(Protocol[AnyInputs]):
    """An artifact opened by its own runtime."""

    name: str
    """Runtime, version and device, as the report names them."""

    def logits(self, batch: AnyInputs) -> Floats:
        """Answer one batch: (rows, labels), (rows, positions, labels), or (rows, positions, 2) for starts and ends.

        Of a language model the labels are its vocabulary, and those of a token are what comes next.
        """


@dataclass(frozen=True)
class Asked:
    """Rows as a model takes them: windows, one a row but for long contexts. `owners[i]` is the row of window i."""

    windows: list[Any]
    owners: list[int]


class ArtifactReader(Protocol):
    """What an artifact's own preprocessor files make of rows."""

    def example(self, rows: int, length: int) -> Inputs:
        """Make a full batch, which latency is measured on. length: positions of a row, where they are free."""

    def ask(self, rows: Sequence[Row]) -> Asked:
        """Encode rows."""

    def batches(self, windows: Sequence[Any], size: int) -> Iterator[Inputs]:
        """Lay every `size` windows side by side, in order."""

    def answered(self, window: Any, logits: Floats) -> Floats:
        """Cut off what answers padding. logits: of one window of a batch."""


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
class Scored:
    """A score, and the headline metric on resamples of the rows."""

    score: Score
    draws: Draws


@dataclass(frozen=True)
class SplitScoring:
    """A split that is about to be answered. answer: does it, calling what it is given with how many windows more are done."""

    windows: int
    answer: Callable[[Callable[[int], None]], Scored]


class Scorer(Protocol):
    """Judges one task."""

    @property
    def metric(self) -> str:
        """The headline metric."""

    @property
    def next_tokens(self) -> bool:
        """Whether each position's answer is the distribution of what comes next, asked step by step too."""

    def reader(self, folder: Path, pad_id: int | None = None) -> ArtifactReader:
        """Open what an artifact's own files make of rows. pad_id: in place of the one in its config."""

    def open_split(self, runner: Any, reader: Any, rows: Sequence[Row], seed: int = 0) -> SplitScoring:
        """Encode a split for an artifact. seed: of the resamples of the rows. Raises ValueError if nothing is asked."""

    def sample(self, reader: Any, rows: Sequence[Row], outputs: int) -> list[Inputs]:
        """Return what an artifact is verified with: single rows, then all together. outputs: the width of its answers."""


class RowScorer:
    """What tasks have in common whose rows are answered one by one; the rest is the task's."""

    next_tokens: ClassVar[bool] = False

    if TYPE_CHECKING:  # subclasses have it as a field or a constant

        @property
        def metric(self) -> str:
            """The headline metric."""
            raise NotImplementedError

    def reader(self, folder: Path, pad_id: int | None = None) -> ArtifactReader:
        """Open what an artifact's own files make of rows."""
        raise NotImplementedError

    def answers(self, asked: Asked, logits: Sequence[Floats], rows: Sequence[Row]) -> list[Any]:
        """Read answers out of each window's logits, padding cut off. -> one for each row."""
        raise NotImplementedError

    def values(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """Judge the answers to all rows by the headline metric and the task's others."""
        raise NotImplementedError

    def figures(self, answers: Sequence[Any], rows: Sequence[Row], seed: int = 0) -> Figures:
        """Say beside each value how sure it is. seed: of the samples of the rows."""
        raise NotImplementedError

    def changed(self, alone: Sequence[Any], together: Sequence[Any]) -> int:
        """Count the rows whose answers differ."""
        return sum(one != other for one, other in zip(alone, together, strict=True))

    def shown(self, answer: Any, logits: Floats, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return an answer as keys of `schema.prediction.Answer`. logits: of its first window."""
        raise NotImplementedError

    def open_split(self, runner: Runner[Any], reader: ArtifactReader, rows: Sequence[Row], seed: int = 0) -> SplitScoring:
        """Encode a split, to be scored at batch 1 and padded at batch 32."""
        asked = reader.ask(rows)

        def answer(more: Callable[[int], None]) -> Scored:
            alone, together = (
                self.answers(asked, answered(runner, reader, asked.windows, size, more), rows) for size in (1, TOGETHER)
            )
            found = self.figures(alone, rows, seed)
            score = Score(
                metric=self.metric,
                value=found.values[self.metric],
                standard_error=found.standard_errors[self.metric],
                error_from=found.error_from,
                metrics=found.values,
                standard_errors=found.standard_errors,
                value_at_batch_32=self.values(together, rows)[self.metric],
                rows=len(rows),
                rows_changed_by_batching=self.changed(alone, together),
                chance=found.chance,
            )
            return Scored(score, Draws(rows=len(rows), seed=seed, values=tuple(found.draws.tolist())))

        return SplitScoring(2 * len(asked.windows), answer)

    def sample(self, reader: ArtifactReader, rows: Sequence[Row], outputs: int) -> list[Inputs]:  # noqa: ARG002
        """Each row alone, then all together."""
        windows = reader.ask(rows).windows
        return [*reader.batches(windows, 1), *reader.batches(windows, len(windows))]


def answered(
    runner: Runner[Any],
    reader: ArtifactReader,
    windows: Sequence[Any],
    size: int,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Floats]:
    """Answer every window, `size` of them at a time. -> (labels,) or (positions, …) of each, what answers padding cut off.

    tell: called with how many windows a batch had that is answered.
    """
    found: list[Floats] = []
    for batch in reader.batches(windows, size):
        found.extend(runner.logits(batch))
        tell(batch.shape[0])
    return [reader.answered(window, row) for window, row in zip(windows, found, strict=True)]


def softmax(logits: Floats) -> list[float]:
    """Turn logits to shares."""
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    return [float(power) for power in powers / powers.sum()]
