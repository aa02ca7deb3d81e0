"""What the engine asks of a task: how a model's output becomes one tensor, what it is trained on, and how it is judged."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from compression.modalities.scorers import AnyScorer
from compression.schema.recipe.base import Task as Name

if TYPE_CHECKING:  # rows know their task, so that no caller can judge them by another's metric
    from compression.modalities.text.batches import Batch, TokenizedDataset


class TaskAdapter(Protocol):
    """A kind of question. `logits` below are always those of `logits()`: one tensor, its first dimension the rows."""

    @property
    def name(self) -> Name:
        """What jobs and datasets call it."""
        ...

    @property
    def metric(self) -> str:
        """The headline metric, which validation chooses by."""
        ...

    def logits(self, output: Any) -> Tensor:
        """Take the answers out of what a stock model returns."""
        ...

    def counts(self, labels: Tensor) -> Tensor | None:
        """Say over how many answers to each row `loss` is a mean. labels: (rows, ...) -> (rows,), or None: one to each."""
        ...

    def loss(self, logits: Tensor, batch: "Batch") -> Tensor:
        """Hold answers against the batch's labels -> scalar, mean over all that `counts` counts."""
        ...

    def learned(self, model: nn.Module, batch: "Batch") -> Tensor:
        """Ask a model and hold its answers against the batch's labels, as `loss` does -> scalar."""
        ...

    def run(self, model: nn.Module, batch: "Batch") -> None:
        """Have a model answer, for those who listen to its parts."""
        ...

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: "Batch", temperature: float) -> Tensor:
        """Hold a student's answers against a teacher's -> scalar, mean over rows."""
        ...

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        """Make one answer of several teachers', for `soft_loss` at that temperature.

        logits: (teachers, rows, ...); weights: (teachers,), positive; mask: (rows, tokens), 1 at real tokens, where answers are
        of tokens -> (rows, ...).
        """
        ...

    def score(self, logits: Tensor, rows: "TokenizedDataset") -> float:
        """Judge the answers to all rows of a split by `metric`. logits: (rows, ...), in float32 on the CPU."""
        ...

    def chance(self, rows: "TokenizedDataset") -> float:
        """Say what `metric` is for whoever knows the split's answers and not its texts."""
        ...


class SmallOutputTask:
    """What tasks have in common whose answers to a batch are small: they are there all at once."""

    scorer: AnyScorer

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

    def learned(self: TaskAdapter, model: nn.Module, batch: "Batch") -> Tensor:
        """Ask a model and hold its answers against the batch's labels -> scalar."""
        return self.loss(self.logits(model(**batch.inputs)), batch)

    def run(self, model: nn.Module, batch: "Batch") -> None:
        """Have a model answer."""
        model(**batch.inputs)


def label_loss(task: TaskAdapter, model: nn.Module) -> "Callable[[Batch], Tensor]":
    """Return the loss of `model` on a batch's labels, as training asks for it."""
    return lambda batch: task.learned(model, batch)


class TrainingBatch(Protocol):
    """Rows side by side that a loss is taken of, whatever a row is."""

    @property
    def weight(self) -> int:
        """Say over how many of its parts, such as rows or tokens, the loss is a mean."""
        ...

    def to(self: "AnyBatch", device: torch.device) -> "AnyBatch":
        """Return the rows with their tensors on a device."""
        ...

    def split(self: "AnyBatch", parts: int) -> "list[AnyBatch]":
        """Cut into at most `parts`, of about as many rows each."""
        ...


AnyBatch = TypeVar("AnyBatch", bound=TrainingBatch)


YieldedBatch = TypeVar("YieldedBatch", covariant=True, bound=TrainingBatch)


class TrainingRows(Protocol[YieldedBatch]):
    """Rows that a model can be trained on."""

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def shuffled(self, size: int, seed: int) -> Iterator[YieldedBatch]:
        """Go through all rows once, `size` at a time, in an order given by `seed`."""
        ...


def count_steps(rows: int, size: int) -> int:
    """Count the batches of one pass."""
    return -(-rows // size)


def grouped(batches: Iterator[AnyBatch], count: int) -> Iterator[list[AnyBatch]]:
    """Hand out `count` batches at a time; the last hand may hold fewer."""
    while hand := list(islice(batches, count)):
        yield hand
