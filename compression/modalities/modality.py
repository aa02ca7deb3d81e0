"""The interface of a modality: reading, encoding, scoring and reporting a kind of data.

The engine calls `read` once for each dataset of a job, opens a `Preprocessor` for each model that reads it, and then uses
only `Examples`, `Batch` and the task (`base`). What only some modalities can do is a capability: an object, or None if the
modality lacks it.
"""

from __future__ import annotations  # processes that must not load torch import this module

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from compression.modalities.base import Examples, TaskAdapter
from compression.modalities.scoring.base import Row, Scorer
from compression.schema.recipe.base import Split, Task as Name

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from compression.schema.errors import CompressionError
    from compression.schema.job_spec import Data, Spec
    from compression.schema.prediction_request import AnswerSpec, RowInputs
    from compression.schema.recipe.augment import Augment
    from compression.schema.recipe.recipe import Evaluate
    from compression.schema.recipe.views import Views
    from compression.schema.report.report import SplitFacts
    from compression.schema.report.samples import Sample
    from compression.schema.validation import DataFacts

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Dataset(Protocol):
    """A dataset's rows before any model reads them. All labels occur in train."""

    @property
    def task(self) -> Name:
        """The task of the dataset."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of their ids; empty if the task has none."""

    @property
    def unlabelled(self) -> Sequence[Any]:
        """Inputs without labels, for the general phase of distillation."""

    def in_order(self, labels: tuple[str, ...]) -> Self:
        """Return the dataset with the same labels in another order, for example that of a model's head."""

    def facts(self) -> dict[str, SplitFacts]:
        """Return a description of each split's content."""

    def judged(self, split: Split) -> list[Row]:
        """Return a split's rows in the scorer's format, each a JSON object (a large input as its path)."""


class Preprocessor(Protocol):
    """Encodes a dataset for one model."""

    @property
    def length(self) -> int:
        """The maximum number of positions of a row."""

    @property
    def padding(self) -> int:
        """The padding id of shorter rows, as in a model's config; 0 if rows are not padded."""

    def encode(self, dataset: Any, split: Split, task: TaskAdapter) -> Examples:
        """Encode a split for this model. dataset: of the same modality."""

    def unlabelled(self, inputs: Sequence[Any], task: TaskAdapter) -> Examples:
        """Encode inputs without labels."""

    def with_made(self, rows: Any, made: Sequence[Any], task: TaskAdapter) -> Examples:
        """Append the rows that an `Augmenter` made to those of train, without labels.

        rows: encoded for this model.
        """

    def reads_like(self, other: Any) -> bool:
        """Return whether both encode rows to the same tensors, if both cut them alike."""

    def write(self, folder: Path) -> None:
        """Write the files from which stock code opens it, such as a tokenizer's."""


class IndependentReader:
    """Base class of preprocessors that read each row as it is: without positions, padding or files."""

    length = padding = 0

    def unlabelled(self, inputs: Sequence[Any], task: TaskAdapter) -> Examples:
        """Refuse: no task of the modality has unlabelled inputs."""
        raise NotImplementedError

    def with_made(self, rows: Any, made: Sequence[Any], task: TaskAdapter) -> Examples:
        """Refuse: no rows are augmented."""
        raise NotImplementedError

    def reads_like(self, other: Any) -> bool:
        """Return whether both are of one class."""
        return type(self) is type(other)

    def write(self, folder: Path) -> None:
        """Write nothing: a model's config.json is enough."""


@dataclass(frozen=True)
class Augmented:
    """The result of an augmentation.

    rows: train with the new rows appended; made: the new rows in the format of `Preprocessor.with_made`; note: for the report.
    """

    rows: Examples
    made: Sequence[Any]
    note: str
    examples: tuple[str, ...] = ()


class Augmenter(Protocol):
    """Makes new rows from those of train. Only teachers provide their targets."""

    def augment(
        self, settings: Augment, seed: int, teacher: PreTrainedModel, rows: Any
    ) -> Generator[tuple[int, int], None, Augmented]:
        """Make rows; yield the number of processed rows and the total. rows: train, encoded for the student."""

    def read_by(self, preprocessor: Any, task: TaskAdapter) -> Augmenter:
        """Return an augmenter whose rows are encoded for another model."""


class InputPruner(Protocol):
    """Removes inputs that the job's rows do not need, such as tokens, and their embeddings from a model."""

    @property
    def kept(self) -> tuple[int, ...]:
        """Old ids of the inputs that stay, in their new order."""

    @property
    def folder(self) -> Path:
        """Folder with the files of the preprocessor that has only these inputs."""

    def fits(self, config: PretrainedConfig) -> bool:
        """Return whether another model with the old preprocessor can be pruned to these inputs."""

    def model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Build the model that reads the new inputs and computes the same outputs as before."""

    def rows(self, rows: Any) -> Examples:
        """Return rows with the new input ids. Raises KeyError for a row that needs other inputs."""

    def preprocessor(self, preprocessor: Any) -> Preprocessor:
        """Return a preprocessor like `preprocessor` that encodes with the new input ids."""

    def augmenter(self, augmenter: Any, preprocessor: Any, task: TaskAdapter) -> Augmenter:
        """Return the augmenter for the new inputs."""

    def note_on_test(self, rows: Any) -> str:
        """Return a note on how many rows of test are now encoded differently. rows: with the old input ids."""


@dataclass(frozen=True)
class Summary:
    """The report's summary of a dataset."""

    splits: dict[str, SplitFacts]
    """Content of each split."""
    sizes: dict[str, int]
    """Number of rows of usual length that take as much time as those of a split."""
    cut: str | None = None
    """How many rows of train are longer than the model's limit and were truncated; None if none was."""
    notes: tuple[str, ...] = ()
    """Notes for the reader on how the rows are encoded and scored."""


@dataclass(frozen=True)
class RawInput:
    """An input of 8 bits from which a file makes the model's, in float32: (value / divisor − mean) / deviation."""

    name: str  #: in the file
    replaces: str  #: the model's input, (rows, channels, ...)
    order: tuple[int, ...]  #: axes of the raw input in the model's order
    channels: tuple[int, ...]  #: channels of the raw input in the model's order
    divisor: float
    mean: tuple[float, ...]  #: of each channel, in the model's order
    deviation: tuple[float, ...]  #: the same


@dataclass(frozen=True)
class InputFacts:
    """What an artifact's manifest says of an input beside its type and sizes."""

    axes: tuple[str, ...]  #: names of its dimensions
    low: float  #: smallest value
    high: float  #: largest value
    usual: float | None = None  #: value of all elements in rows without padding


class IndependentRows:
    """Base class of modalities whose models read each row as it is: they have none of the optional capabilities."""

    def samples(self, rows: Sequence[Row], labels: tuple[str, ...]) -> tuple[Sample, ...]:  # noqa: ARG002
        """Return nothing: reports show no rows."""
        return ()

    def adapted(self, folder: Path, *_: Any, like: Path | None = None) -> tuple[Path, None]:  # noqa: ARG002
        """Return the folder as it is."""
        return folder, None

    def preprocessor_notes(self, folder: Path) -> list[str]:  # noqa: ARG002
        """Return no notes."""
        return []

    def write_preprocessor(
        self, source: Path, folder: Path, length: int, task: Name, model: PreTrainedModel | None = None
    ) -> None:
        """Write nothing: an artifact's config.json is enough to read its rows."""

    def raw_input(self, folder: Path) -> RawInput | None:  # noqa: ARG002
        """Return None: files read what the model reads."""
        return None

    def input_facts(self, model: nn.Module, folder: Path) -> dict[str, InputFacts]:  # noqa: ARG002
        """Return nothing: axes have no names, and values no limits that are known."""
        return {}

    def evaluation(self, evaluate: Evaluate, task: Name, length: int, positions: int) -> Evaluate:  # noqa: ARG002
        """Return the settings as they are."""
        return evaluate

    def scored(self, dataset: Any, preprocessor: Any, evaluate: Evaluate, task: Name, seed: int) -> dict[Split, list[int]]:  # noqa: ARG002
        """Return no sample: every row is scored."""
        return {}

    def encode(
        self, dataset: Any, preprocessor: Any, task: TaskAdapter, splits: Sequence[Split] = SPLITS
    ) -> dict[Split, Examples]:
        """Encode splits."""
        return {split: preprocessor.encode(dataset, split, task) for split in splits}

    def train_rows(self, rows: Any, views: Views | None, seed: int) -> Any:  # noqa: ARG002
        """Return the rows as they are."""
        return rows

    def traced(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> nn.Module:
        """Return the module to trace: the model with these inputs by their names."""
        from compression.modalities.traced_model import TracedModel

        return TracedModel(model, inputs, outputs)

    def augmenter(self, *_: Any) -> None:
        """Return None: rows are not augmented."""

    def input_pruner(self, *_: Any) -> None:
        """Return None: there are no inputs to choose from."""

    def digests(self, spec: Spec, base: Path) -> None:
        """Return None: no rows are augmented."""

    def summary(self, dataset: Any, _: Any, rows: Mapping[Split, Examples], *__: Any) -> Summary:
        """Summarize the rows."""
        return Summary(dataset.facts(), {str(name): len(split) for name, split in rows.items()})


class Modality(Protocol):
    """A kind of data.

    Its tasks, formats and names are in `schema.tasks.ModalitySpec`, which names this object. The methods up to `scorer` must
    not load torch: processes that check uploads, serve prediction requests and measure artifacts call them too.
    """

    def read(self, data: Data, base: Path, task: Name, seed: int) -> Dataset:
        """Read all splits and carve the missing ones. Relative paths start at `base`."""

    def check(self, data: Data, base: Path, task: Name) -> DataFacts | list[CompressionError]:
        """Return the facts about an upload, or every reason to reject it."""

    def question(self, spec: AnswerSpec, base: Path) -> tuple[Row, dict[str, Any], Any]:
        """Return a prediction request's row for the scorer, the row for people, and the expected output.

        The row for people: strings and lists of words by name; `picture`, if it has one, is a small picture as a data: URI.
        """

    def row(self, task: Name, given: RowInputs) -> Row:
        """Return the scorer's row of a request's own inputs, those that the task reads. Raises the errors of reading them."""

    def samples(self, rows: Sequence[Row], labels: tuple[str, ...]) -> tuple[Sample, ...]:
        """Return what a report shows of rows of test, each of them; empty if the modality shows none.

        rows: a few; labels: the model's. Raises the errors of reading rows.
        """

    def scorer(self, task: Name, evaluate: Evaluate, labels: tuple[str, ...]) -> Scorer:
        """Return the scorer of a task. labels: the model's, in the order of its outputs."""

    def task(self, name: Name, evaluate: Evaluate, labels: tuple[str, ...]) -> TaskAdapter:
        """Return the adapter that trains a task."""

    def adapted(
        self, folder: Path, dataset: Any, task: Name, target: Path, name: str, like: Path | None = None
    ) -> tuple[Path, str | None]:
        """Return a model's folder with a preprocessor that suits the rows, and a note if it was changed.

        A changed preprocessor is written to `target`. name: of the model, for the note; like: the folder of a model whose
        preprocessor is kept, so that both encode alike.
        """

    def preprocessor(self, folder: Path, config: PretrainedConfig, length: int) -> Preprocessor:
        """Open a model's preprocessor.

        length: the maximum number of positions of a row that the recipe allows.
        """

    def preprocessor_notes(self, folder: Path) -> list[str]:
        """Return notes for the report on how stock code opens the preprocessor of a model's folder."""

    def write_preprocessor(
        self, source: Path, folder: Path, length: int, task: Name, model: PreTrainedModel | None = None
    ) -> None:
        """Write an artifact's preprocessor files.

        source: the folder with the model's files; length: of its rows.
        """

    def example_inputs(self, model: nn.Module, batch: int, length: int) -> dict[str, Tensor]:
        """Return example inputs on the CPU by the model's input names, in the order of an ONNX file's inputs."""

    def traced(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> nn.Module:
        """Return the module to trace for an ONNX file.

        It wraps `model`, takes these inputs, those of `example_inputs`, and returns a tuple of these outputs.
        """

    def free_dimensions(self, model: nn.Module) -> dict[str, dict[int, tuple[str, int | None]]]:
        """Return the names and maximum sizes (None: any) of each input's dynamic dimensions in an ONNX file."""

    def raw_input(self, folder: Path) -> RawInput | None:
        """Return the input that an artifact's ONNX file can have in place of the model's; None if its tasks have none.

        folder: with the preprocessor's files.
        """

    def input_facts(self, model: nn.Module, folder: Path) -> dict[str, InputFacts]:
        """Return the axes and values of inputs by name: of the model's, of a `raw_input`, and of others that files may have.

        folder: with the preprocessor's files.
        """

    def evaluation(self, evaluate: Evaluate, task: Name, length: int, positions: int) -> Evaluate:
        """Fill in unset values from the maximum positions of a row and of the model. Raises InvalidSpec."""

    def scored(self, dataset: Any, preprocessor: Any, evaluate: Evaluate, task: Name, seed: int) -> dict[Split, list[int]]:
        """Sample the rows of validation and of test to score; a split that is scored whole has no entry."""

    def encode(
        self, dataset: Any, preprocessor: Any, task: TaskAdapter, splits: Sequence[Split] = SPLITS
    ) -> dict[Split, Examples]:
        """Encode splits. Raises UnreadableData or EmptySplit if they have nothing to encode."""

    def train_rows(self, rows: Any, views: Views | None, seed: int) -> Examples:
        """Return the rows of train with the recipe's views, which their `shuffled` shows. rows: encoded; seed: of the views."""

    def augmenter(
        self, spec: Spec, base: Path, folder: Path, dataset: Any, preprocessor: Any, task: TaskAdapter
    ) -> Augmenter | None:
        """Return the augmenter if the recipe has augmentation.

        Raises MissingResource. folder: of the base model.
        """

    def input_pruner(
        self, folder: Path, config: PretrainedConfig, dataset: Any, preprocessor: Any, target: Path, ratio: float
    ) -> InputPruner | None:
        """Choose the inputs that the rows need. ratio: the maximum share to remove.

        None if the modality has no inputs to choose from.
        """

    def digests(self, spec: Spec, base: Path) -> dict[str, str] | None:
        """Return digests of the worker's files that augmented rows depend on; None without augmentation."""

    def summary(
        self,
        dataset: Any,
        preprocessor: Any,
        rows: Mapping[Split, Examples],
        evaluate: Evaluate,
        scored: Mapping[Split, list[int]],
    ) -> Summary:
        """Summarize the rows, their encoding and their scoring for the report; `rows` may lack splits."""
