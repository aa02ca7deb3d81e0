"""What a kind of data is to the engine: how it is read, encoded, asked of an artifact, and told of in the report.

The engine calls `read` once for each dataset of a job, opens a `Preprocessor` for each model that reads it, and then sees
nothing but `Examples`, `Batch` and the task (`base`). What only some modalities can do is a capability: an object, None if it
is lacking.
"""

from __future__ import annotations  # this module is read where torch must not be loaded

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from compression.modalities.base import Examples, TaskAdapter
from compression.modalities.scoring.base import Row, Scorer
from compression.schema.recipe.base import Split
from compression.schema.recipe.base import Task as Name

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from compression.schema.errors import CompressionError
    from compression.schema.job_spec import Data, Spec
    from compression.schema.prediction_request import AnswerSpec
    from compression.schema.recipe.augment import Augment
    from compression.schema.recipe.recipe import Evaluate
    from compression.schema.report.report import SplitFacts
    from compression.schema.validation import DataFacts

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Dataset(Protocol):
    """A dataset's rows before any model reads them. Labels all occur in train."""

    @property
    def task(self) -> Name:
        """What it is for."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names in the order of their ids; none where the task has none."""

    @property
    def unlabelled(self) -> Sequence[Any]:
        """Inputs without labels, for the general phase of distillation."""

    def in_order(self, labels: tuple[str, ...]) -> Self:
        """Number the same labels in another order, for example that of a model's head."""

    def facts(self) -> dict[str, SplitFacts]:
        """Say what each split holds."""

    def judged(self, split: Split) -> list[Row]:
        """Return a split's rows as the task's scorer reads them, each a JSON object (a large input goes by its path)."""


class Preprocessor(Protocol):
    """How one model reads a dataset."""

    @property
    def length(self) -> int:
        """The most positions of a row."""

    @property
    def padding(self) -> int:
        """What fills shorter rows up, as a model's config names it; 0 where nothing does."""

    def encode(self, dataset: Any, split: Split, task: TaskAdapter) -> Examples:
        """Encode a split for this model. dataset: of the same modality."""

    def unlabelled(self, inputs: Sequence[Any], task: TaskAdapter) -> Examples:
        """Encode inputs of which no label is known."""

    def with_made(self, rows: Any, made: Sequence[Any], task: TaskAdapter) -> Examples:
        """Put what an `Augmenter` made behind the rows of train, without labels. rows: as this model reads them."""

    def reads_like(self, other: Any) -> bool:
        """Whether rows that both cut alike are the same tensors."""


@dataclass(frozen=True)
class Augmented:
    """rows: train with the new rows behind it; made: these, as `Preprocessor.with_made` takes them; note: for the report."""

    rows: Examples
    made: Sequence[Any]
    note: str
    examples: tuple[str, ...] = ()


class Augmenter(Protocol):
    """Makes more rows of train's, which teachers alone may answer."""

    def augment(
        self, settings: Augment, seed: int, teacher: PreTrainedModel, rows: Any
    ) -> Generator[tuple[int, int], None, Augmented]:
        """Make rows; yield how many were dealt with, and of how many. rows: train as the student reads it."""

    def read_by(self, preprocessor: Any, task: TaskAdapter) -> Augmenter:
        """Return the one whose rows another model reads."""


class InputPruner(Protocol):
    """Takes from a model the inputs that the job's rows do not need, with their embeddings: tokens of a vocabulary."""

    @property
    def kept(self) -> tuple[int, ...]:
        """Old numbers of the inputs that stay, in their new order."""

    @property
    def folder(self) -> Path:
        """Where the preprocessor's files lie that know these alone."""

    def fits(self, config: PretrainedConfig) -> bool:
        """Say whether another model with the old preprocessor can be cut to these."""

    def model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Build the model that reads the new inputs and answers as before."""

    def rows(self, rows: Any) -> Examples:
        """Return rows by their new inputs. Raises KeyError for a row that needs others."""

    def preprocessor(self, preprocessor: Any) -> Preprocessor:
        """Return what reads as `preprocessor` does, by the new inputs."""

    def augmenter(self, augmenter: Any, preprocessor: Any, task: TaskAdapter) -> Augmenter:
        """Return the augmenter of the new inputs."""

    def note_on_test(self, rows: Any) -> str:
        """Say how many rows of test are read otherwise now. rows: by the old inputs."""


@dataclass(frozen=True)
class Summary:
    """What a report tells of a dataset."""

    splits: dict[str, SplitFacts]
    """What each split holds."""
    sizes: dict[str, int]
    """Rows of usual length that take as much time as those of a split."""
    cut: str | None = None
    """How many rows of train are longer than the model may read, and were cut; None if none was."""
    notes: tuple[str, ...] = ()
    """What one must know of how the rows are read and scored."""


class Modality(Protocol):
    """A kind of data. Its tasks, formats and names are in `schema.tasks.ModalitySpec`, which names this object.

    Up to `scorer`, nothing may load torch: processes that check uploads, answer requests and measure artifacts call it too.
    """

    def read(self, data: Data, base: Path, task: Name, seed: int) -> Dataset:
        """Read all splits and carve the missing ones. Relative paths are taken from `base`."""

    def check(self, data: Data, base: Path, task: Name) -> DataFacts | list[CompressionError]:
        """Return what is known of an upload, or every reason why it cannot be taken."""

    def question(self, spec: AnswerSpec, base: Path) -> tuple[Row, dict[str, Any], Any]:
        """Return the row of a prediction request as the scorer reads it, as people do, and what the data expects of it."""

    def scorer(self, task: Name, evaluate: Evaluate, labels: tuple[str, ...]) -> Scorer:
        """Return what judges a task. labels: the model's, in the order of its outputs."""

    def task(self, name: Name, evaluate: Evaluate, labels: tuple[str, ...]) -> TaskAdapter:
        """Return what a task is learned by."""

    def adapted(
        self, folder: Path, dataset: Any, task: Name, target: Path, name: str, like: Path | None = None
    ) -> tuple[Path, str | None]:
        """Return a model's folder with a preprocessor that suits the rows, written to `target` if need be, and a note on it.

        name: of the model, for the note; like: the folder of one whose preprocessor is kept, so that both read alike.
        """

    def preprocessor(self, folder: Path, config: PretrainedConfig, length: int) -> Preprocessor:
        """Open how a model reads. length: the most positions of a row that the recipe allows."""

    def write_preprocessor(
        self, source: Path, folder: Path, length: int, task: Name, model: PreTrainedModel | None = None
    ) -> None:
        """Write the preprocessor's files of an artifact. source: the folder that has the model's; length: of its rows."""

    def example_inputs(self, model: nn.Module, batch: int, length: int) -> dict[str, Tensor]:
        """Return inputs by the names that a model takes, in the order of an ONNX file's. On the CPU."""

    def traced(self, model: nn.Module, outputs: tuple[str, ...]) -> nn.Module:
        """Return what is traced for an ONNX file: it holds `model`, takes these inputs and gives a tuple of these outputs."""

    def free_dimensions(self, model: nn.Module) -> dict[str, dict[int, tuple[str, int | None]]]:
        """Name the dimensions of each input that are free in an ONNX file, and how large they may be; None is any size."""

    def evaluation(self, evaluate: Evaluate, task: Name, length: int, positions: int) -> Evaluate:
        """Fill in what is left open, by the most positions of a row and of the model. Raises InvalidSpec."""

    def scored(self, dataset: Any, preprocessor: Any, evaluate: Evaluate, task: Name, seed: int) -> dict[Split, list[int]]:
        """Draw the rows of validation and of test that are scored; nothing of a split of which all are."""

    def encode(
        self, dataset: Any, preprocessor: Any, task: TaskAdapter, splits: Sequence[Split] = SPLITS
    ) -> dict[Split, Examples]:
        """Encode splits. Raises UnreadableData or EmptySplit if there is nothing in them to read."""

    def augmenter(
        self, spec: Spec, base: Path, folder: Path, dataset: Any, preprocessor: Any, task: TaskAdapter
    ) -> Augmenter | None:
        """Return what makes more rows, if the recipe asks for it. Raises MissingResource. folder: of the base model."""

    def input_pruner(
        self, folder: Path, config: PretrainedConfig, dataset: Any, preprocessor: Any, target: Path, ratio: float
    ) -> InputPruner | None:
        """Choose the inputs that the rows need; None if the modality has none to choose from. ratio: the share that may go."""

    def digests(self, spec: Spec, base: Path) -> dict[str, str] | None:
        """Digest the worker's files that made rows hang on; None if none are made."""

    def summary(
        self,
        dataset: Any,
        preprocessor: Any,
        rows: Mapping[Split, Examples],
        evaluate: Evaluate,
        scored: Mapping[Split, list[int]],
    ) -> Summary:
        """Say what the report must tell of the rows and of how they are read and scored; `rows` may lack splits."""
