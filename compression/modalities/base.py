"""The data interfaces that the engine's stages use: examples, batches and their task.

An optional capability of a task is an object, or None if the task lacks it.
"""

from __future__ import annotations  # processes that must not load torch import this module

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from compression.schema.recipe.base import Task as Name

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from compression.modalities.scoring.base import Scorer


class TrainingBatch(Protocol):
    """A batch of rows that a loss can be computed on, whatever a row is."""

    @property
    def weight(self) -> int:
        """Return the number of units, such as rows or tokens, that the loss is a mean over."""

    def to(self: AnyBatch, device: torch.device) -> AnyBatch:
        """Return the batch with its tensors on a device."""

    def split(self: AnyBatch, parts: int) -> list[AnyBatch]:
        """Split the batch into at most `parts` batches with about the same number of rows."""


AnyBatch = TypeVar("AnyBatch", bound=TrainingBatch)
YieldedBatch = TypeVar("YieldedBatch", covariant=True, bound=TrainingBatch)


class TrainingRows(Protocol[YieldedBatch]):
    """Rows that a model can be trained on."""

    @property
    def lengths(self) -> list[int]:
        """Number of positions of each row."""

    @property
    def varies(self) -> bool:
        """Whether `shuffled` shows a row otherwise each time."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batch(self, rows: list[int]) -> YieldedBatch:
        """Return a batch of the rows with these indices."""

    def shuffled(self, size: int, seed: int) -> Iterator[YieldedBatch]:
        """Yield every row once in batches of `size`, in an order that `seed` determines."""


class Batch(TrainingBatch, Protocol):
    """A batch of model inputs with labels."""

    @property
    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of the stock model's forward."""

    @property
    def labels(self) -> Tensor:
        """Labels in the task's format; the first dimension is the rows."""

    @property
    def mask(self) -> Tensor:
        """Mask of real positions (tokens, patches), (rows, positions); one position if a row has no parts."""

    @property
    def rows(self) -> Tensor:
        """Indices of the rows in the examples, (rows,), on the CPU."""

    @property
    def labelled(self) -> Tensor | None:
        """Whether each row has a label of its own, (rows,); None if all have.

        The others learn from a teacher only.
        """

    def at(self: AnyBatch, where: slice | Tensor) -> AnyBatch:
        """Return some of the rows. where: a slice, or a boolean mask (rows,)."""


class Examples(Protocol):
    """A split, encoded for a task and a model."""

    @property
    def task(self) -> TaskAdapter:
        """The task of the rows; it is stored here so that no caller can score them by another task's metric."""

    @property
    def labels(self) -> Tensor:
        """Labels of all rows, in the task's format."""

    @property
    def lengths(self) -> list[int]:
        """Number of positions of each row, as in `Batch.mask`."""

    @property
    def references(self) -> Any | None:
        """Data that the task needs besides the labels to score predictions; None if it needs none."""

    @property
    def varies(self) -> bool:
        """Whether `shuffled` shows a row otherwise each time, or several rows mixed, so that no output for it can be kept."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def seen_in(self, batch: Batch) -> Batch:
        """Return what a batch of another model's examples of the same rows shows, as this model reads it."""

    def cut_like(self, other: Any) -> bool:
        """Return whether another model's examples split the same rows into the same parts."""

    def at(self, rows: list[int]) -> Examples:
        """Return the rows with these indices, in this order."""

    def batch(self, rows: list[int]) -> Batch:
        """Return a batch of the rows with these indices."""

    def without_inputs(self) -> Batch:
        """Return all rows in order in one batch, for losses of logits that are known: with labels and mask, and of the inputs
        what takes little memory.
        """

    def by_length(self, size: int) -> Iterator[Batch]:
        """Yield every row once, in batches of similar length.

        For evaluation, where the order does not matter.
        """

    def shuffled(self, size: int, seed: int) -> Iterator[Batch]:
        """Yield every row once, in batches, in an order that `seed` determines."""


class FixedRows:
    """Base class of examples whose rows never vary, and take little memory."""

    varies = False

    def seen_in(self: Examples, batch: Batch) -> Batch:
        """Return a batch of the same rows."""
        return self.batch(batch.rows.tolist())

    def without_inputs(self: Examples) -> Batch:
        """Return all rows in one batch, inputs included."""
        return self.batch(list(range(len(self))))


class TaskAdapter(Protocol):
    """A task.

    `logits` below are always those of `logits()`: one tensor whose first dimension is the rows.
    """

    @property
    def name(self) -> Name:
        """Name of the task in jobs and datasets."""

    @property
    def metric(self) -> str:
        """The headline metric, by which validation chooses."""

    @property
    def packed(self) -> PackedLanguageModel | None:
        """Next-token training and scoring for a task whose logits do not fit in memory; None for others."""

    def logits(self, output: Any) -> Tensor:
        """Extract the logits from a stock model's output."""

    def counts(self, labels: Tensor) -> Tensor | None:
        """Return how many predictions of each row `loss` averages.

        labels: (rows, ...) -> (rows,), or None: one each.
        """

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss against the batch's labels -> scalar, mean over all that `counts` counts."""

    def learned(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run a model and return its loss against the batch's labels, as `loss` does -> scalar."""

    def run(self, model: nn.Module, batch: Batch) -> None:
        """Run a model, so that hooks on its modules fire."""

    def soft_loss(self, student: Tensor, teacher: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Return the loss of a student's logits against a teacher's -> scalar, mean over rows."""

    def fused(self, logits: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
        """Combine the logits of several teachers into one, for `soft_loss` at that temperature.

        logits: (teachers, rows, ...); weights: (teachers,), positive; mask: (rows, positions), 1 at real positions, if there
        is a prediction for each position -> (rows, ...).
        """

    def score(self, logits: Tensor, rows: Examples) -> float:
        """Score the logits of all rows of a split by `metric`. logits: (rows, ...), in float32 on the CPU."""

    def chance(self, rows: Examples) -> float:
        """Return the value of `metric` for predictions that know the split's labels but not its inputs."""


class SmallOutputTask:
    """Base class of tasks whose logits for a batch are small enough to be in memory at once."""

    scorer: Scorer
    packed: PackedLanguageModel | None = None

    @property
    def metric(self) -> str:
        """The headline metric."""
        return self.scorer.metric

    def logits(self, output: Any) -> Tensor:
        """Return the stock model's logits."""
        found: Tensor = output.logits
        return found

    def counts(self, labels: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return None: one prediction for each row."""
        return None

    def learned(self: TaskAdapter, model: nn.Module, batch: Batch) -> Tensor:
        """Run a model and return its loss against the batch's labels -> scalar."""
        return self.loss(self.logits(model(**batch.inputs)), batch)

    def run(self, model: nn.Module, batch: Batch) -> None:
        """Run a model on a batch."""
        model(**batch.inputs)


class Targets(Protocol):
    """A teacher's next-token targets, stored on disk instead of its last hidden states."""

    def get(self, rows: Sequence[int], device: torch.device) -> Any:
        """Read the targets of some rows, concatenated."""

    def close(self) -> None:
        """Close and remove the file."""


StatesOf: TypeAlias = "tuple[PreTrainedModel, Tensor, float]"
"""A teacher, its last hidden states of the scored positions, (asked, width), and the weight of its distribution."""


class PackedLanguageModel(Protocol):
    """Next-token prediction on texts that share rows.

    The logits are as wide as the vocabulary, so they are computed from chunks of the last hidden states. "States" below are
    the last hidden states of the scored positions, those where a next token is predicted, (asked, width): the input of the
    output layer.
    """

    def loss(self, model: nn.Module, rows: Examples, parts: int = 1) -> float:
        """Return the mean loss of a model on all rows, in nats per token."""

    def count(self, rows: Examples) -> int:
        """Return the number of tokens that `loss` is a mean over."""

    def change(self, model: PreTrainedModel, rows: Examples, parts: int = 1) -> Callable[[], float]:
        """Return a function that computes the change of the logits from now on, mean square over mean square."""

    def forward(self, model: PreTrainedModel, batch: Batch, **options: Any) -> tuple[Any, Tensor]:
        """Run a model without its output layer -> its output and the states.

        options: arguments of its forward.
        """

    def scored(self, states: Tensor, batch: Batch) -> Tensor:
        """Select the states of the scored positions.

        states: of all real tokens, row after row -> (asked, width).
        """

    def terms(
        self,
        asked: Collection[str],
        student: tuple[PreTrainedModel, Tensor],
        teachers: Sequence[StatesOf],
        batch: Batch,
        temperature: float,
        targets: Targets | None,
    ) -> dict[str, Tensor]:
        """Return those of the terms `soft` and `hard` that `asked` names.

        student: a model and its states. targets: of the soft term, in place of the teachers' states.
        """

    def relation_loss(self, student: Tensor, teacher: Tensor, batch: Batch, heads: int) -> Tensor:
        """Return the self-attention relation loss within each text of a row.

        `distillation.losses.relation_loss` computes the same for a whole row.
        """

    def keep(
        self,
        teachers: Sequence[tuple[PreTrainedModel, float]],
        rows: Examples,
        path: Path,
        kept: int,
        temperature: float,
        parts: int = 1,
        *,
        half: bool = False,
    ) -> tuple[Targets, Iterator[int]]:
        """Open a file of the top `kept` tokens of teachers -> the file, and an iterator that fills it.

        teachers: models with the weight of each one's distribution. The iterator yields the number of rows of each batch.
        half: multiply in bfloat16.
        """


def label_loss(task: TaskAdapter, model: nn.Module) -> Callable[[Batch], Tensor]:
    """Return the function that training calls for the loss of `model` on a batch's labels."""
    return partial(task.learned, model)


def count_steps(rows: int, size: int) -> int:
    """Return the number of batches in one epoch."""
    return -(-rows // size)


def grouped(batches: Iterator[AnyBatch], count: int) -> Iterator[list[AnyBatch]]:
    """Yield lists of `count` batches; the last list may be shorter."""
    while hand := list(islice(batches, count)):
        yield hand
