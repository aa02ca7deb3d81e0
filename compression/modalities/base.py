"""What the engine's stages see of data: examples, batches, and the task that they are for.

A task's optional capability is an object, None if it is lacking.
"""

from __future__ import annotations  # this module is read where torch must not be loaded

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from compression.schema.recipe.base import Task as Name

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from compression.modalities.scoring.base import Scorer


class TrainingBatch(Protocol):
    """Rows side by side that a loss is taken of, whatever a row is."""

    @property
    def weight(self) -> int:
        """Say over how many of its parts, such as rows or tokens, the loss is a mean."""

    def to(self: AnyBatch, device: torch.device) -> AnyBatch:
        """Return the rows with their tensors on a device."""

    def split(self: AnyBatch, parts: int) -> list[AnyBatch]:
        """Cut into at most `parts`, of about as many rows each."""


AnyBatch = TypeVar("AnyBatch", bound=TrainingBatch)
YieldedBatch = TypeVar("YieldedBatch", covariant=True, bound=TrainingBatch)


class TrainingRows(Protocol[YieldedBatch]):
    """Rows that a model can be trained on."""

    def __len__(self) -> int:
        """Count the rows."""

    def shuffled(self, size: int, seed: int) -> Iterator[YieldedBatch]:
        """Go through all rows once, `size` at a time, in an order given by `seed`."""


class Batch(TrainingBatch, Protocol):
    """Rows as a model takes them."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What the stock model takes."""

    @property
    def labels(self) -> Tensor:
        """As the task has them, the first dimension the rows."""

    @property
    def mask(self) -> Tensor:
        """Where a row has something to read, (rows, positions): tokens, patches; a single position where it has no parts."""

    @property
    def rows(self) -> Tensor:
        """Numbers of the rows among the examples, (rows,), on the CPU."""

    @property
    def labelled(self) -> Tensor | None:
        """Whether a row's label is its own, (rows,); None where all are. Of the others only a teacher may speak."""

    def at(self: AnyBatch, where: slice | Tensor) -> AnyBatch:
        """Return some of the rows: a slice of them, or those where a mask says so. where: (rows,) of truth values."""


class Examples(Protocol):
    """A split, encoded for a task and a model."""

    @property
    def task(self) -> TaskAdapter:
        """What is asked of the rows: rows know it, so that no caller can judge them by another's metric."""

    @property
    def labels(self) -> Tensor:
        """Of all rows, as the task has them."""

    @property
    def lengths(self) -> list[int]:
        """Positions of each row, as in `Batch.mask`."""

    @property
    def references(self) -> Any | None:
        """What the task needs beside the labels to judge answers; None where it needs nothing."""

    def __len__(self) -> int:
        """Count the rows."""

    def cut_like(self, other: Any) -> bool:
        """Whether another model's examples of the same rows are cut into the same parts."""

    def at(self, rows: list[int]) -> Examples:
        """Return the rows named, in that order."""

    def batch(self, rows: list[int]) -> Batch:
        """Lay the rows named side by side."""

    def by_length(self, size: int) -> Iterator[Batch]:
        """Go through all rows once, those of like length together: for evaluation, where order means nothing."""

    def shuffled(self, size: int, seed: int) -> Iterator[Batch]:
        """Go through all rows once in an order given by `seed`."""


class TaskAdapter(Protocol):
    """A kind of question. `logits` below are always those of `logits()`: one tensor, its first dimension the rows."""

    @property
    def name(self) -> Name:
        """What jobs and datasets call it."""

    @property
    def metric(self) -> str:
        """The headline metric, which validation chooses by."""

    @property
    def packed(self) -> PackedLanguageModel | None:
        """How next tokens are learned and judged, of a task whose logits are too many to be held; None of others."""

    def logits(self, output: Any) -> Tensor:
        """Take the answers out of what a stock model returns."""

    def counts(self, labels: Tensor) -> Tensor | None:
        """Say over how many answers to each row `loss` is a mean. labels: (rows, ...) -> (rows,), or None: one to each."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Hold answers against the batch's labels -> scalar, mean over all that `counts` counts."""

    def learned(self, model: nn.Module, batch: Batch) -> Tensor:
        """Ask a model and hold its answers against the batch's labels, as `loss` does -> scalar."""

    def run(self, model: nn.Module, batch: Batch) -> None:
        """Have a model answer, for those who listen to its parts."""

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Hold a student's answers against a teacher's -> scalar, mean over rows."""

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        """Make one answer of several teachers', for `soft_loss` at that temperature.

        logits: (teachers, rows, ...); weights: (teachers,), positive; mask: (rows, positions), 1 at real ones, if answers are
        of positions -> (rows, ...).
        """

    def score(self, logits: Tensor, rows: Examples) -> float:
        """Judge the answers to all rows of a split by `metric`. logits: (rows, ...), in float32 on the CPU."""

    def chance(self, rows: Examples) -> float:
        """Return what `metric` is if the split's answers are known and its inputs are not."""


class SmallOutputTask:
    """What tasks have in common whose answers to a batch are small: they are there all at once."""

    scorer: Scorer
    packed: PackedLanguageModel | None = None

    @property
    def metric(self) -> str:
        """The headline metric."""
        return self.scorer.metric

    def logits(self, output: Any) -> Tensor:
        """The stock model's own answers."""
        found: Tensor = output.logits
        return found

    def counts(self, labels: Tensor) -> Tensor | None:  # noqa: ARG002
        """One answer to each row."""
        return None

    def learned(self: TaskAdapter, model: nn.Module, batch: Batch) -> Tensor:
        """Ask a model and hold its answers against the batch's labels -> scalar."""
        return self.loss(self.logits(model(**batch.inputs)), batch)

    def run(self, model: nn.Module, batch: Batch) -> None:
        """Have a model answer."""
        model(**batch.inputs)


class Targets(Protocol):
    """What is kept on disk of a teacher's next tokens, in the place of its last states."""

    def get(self, rows: Sequence[int], device: torch.device) -> Any:
        """Read some rows, one after the other."""

    def close(self) -> None:
        """Close and remove the file."""


class PackedLanguageModel(Protocol):
    """Next tokens of texts that share rows. Their logits have a vocabulary's width, so they are made in chunks of last states.

    "States" below are the last ones of the places where a token is asked for, (asked, width): what the output layer reads.
    """

    def loss(self, model: nn.Module, rows: Examples, parts: int = 1) -> float:
        """Return the mean loss of a model on all rows, nats a token."""

    def count(self, rows: Examples) -> int:
        """Count the tokens that `loss` is a mean over."""

    def change(self, model: PreTrainedModel, rows: Examples, parts: int = 1) -> Callable[[], float]:
        """Return what tells how much the logits have changed since now, mean square over mean square."""

    def forward(self, model: PreTrainedModel, batch: Batch, **options: Any) -> tuple[Any, Tensor]:
        """Run a model without its output layer -> what it returns, and the states. options: of its forward."""

    def scored(self, states: Tensor, batch: Batch) -> Tensor:
        """Choose the states where a token is asked for. states: of all real tokens, row after row -> (asked, width)."""

    def terms(
        self,
        asked: Collection[str],
        student: tuple[PreTrainedModel, Tensor],
        teacher: tuple[PreTrainedModel, Tensor],
        batch: Batch,
        temperature: float,
        targets: Targets | None,
    ) -> dict[str, Tensor]:
        """Return of the terms `soft` and `hard` those that are asked for. student, teacher: either model and its states."""

    def relation_loss(self, student: Tensor, teacher: Tensor, batch: Batch, heads: int) -> Tensor:
        """Compare self-attention relations within each text of a row, as `distillation.losses.relation_loss` does for a row."""

    def keep(
        self, teacher: PreTrainedModel, rows: Examples, path: Path, kept: int, temperature: float, parts: int = 1
    ) -> tuple[Targets, Iterator[int]]:
        """Open a file of a teacher's `kept` likeliest tokens; what fills it yields how many rows each batch had."""


def label_loss(task: TaskAdapter, model: nn.Module) -> Callable[[Batch], Tensor]:
    """Return the loss of `model` on a batch's labels, as training asks for it."""
    return lambda batch: task.learned(model, batch)


def count_steps(rows: int, size: int) -> int:
    """Count the batches of one pass."""
    return -(-rows // size)


def grouped(batches: Iterator[AnyBatch], count: int) -> Iterator[list[AnyBatch]]:
    """Hand out `count` batches at a time; the last hand may hold fewer."""
    while hand := list(islice(batches, count)):
        yield hand
