"""The output of `python -m compression validate`: one JSON object."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from compression.schema.config import Config
from compression.schema.recipe.base import Task
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts
from compression.schema.report.report import Values


class ModelFacts(Config):
    """The facts of a model after its files were read; preflight and jobs rely on them."""

    kind: Literal["model"] = "model"
    family: str
    architecture: str
    shape: Shape
    max_positions: int
    parameters: Parameters
    labels: Annotated[tuple[str, ...] | None, Field(description="Of its classification head; null for a bare encoder.")]
    dtype: str
    bytes: int
    biases: tuple[Literal["attention", "mlp"], ...] = ()
    """Of a decoder: parts whose linear layers have biases."""
    speaks: Annotated[bool, Field(description="Of a decoder: whether it has an output layer, its own or its table.")] = True
    network: Annotated[NetworkFacts | None, Field(description="Of a network of images: what any cut of it costs.")] = None


class DataFacts(Config):
    """The facts of a dataset after its files were read."""

    kind: Literal["dataset"] = "dataset"
    task: Task = "text-classification"
    labels: Annotated[tuple[str, ...], Field(description="Classes or tags; none where the task has none.")]
    rows: dict[str, int]
    label_counts: dict[str, dict[str, int]]
    values: Annotated[dict[str, Values], Field(default_factory=dict, description="Of each split of a regression.")]
    mean_words: Annotated[float, Field(description="Of train; a first guess at tokens.")]
    longest_words: int
    characters: dict[str, int] = Field(default_factory=dict, description="Of each split of causal-lm, all texts together.")
    unlabelled_words: Annotated[float, Field(description="Mean of the unlabelled texts, where there are any.")] = 0.0
    repeated: Annotated[dict[str, int], Field(exclude_if=lambda value: not value)] = Field(default_factory=dict)
    """Rows of validation and of test whose text, or both of a pair, is in train too; of train, if a split is carved from it,
    those whose text it has more than once. Splits without are left out."""
    empty: Annotated[dict[str, int], Field(exclude_if=lambda value: not value)] = Field(default_factory=dict)
    """Rows of each split that have no word. Splits without are left out."""


class Rejected(Config):
    """The reasons why an upload was rejected, at least one, each with code, cause, remedy and field."""

    kind: Literal["rejected"] = "rejected"
    reasons: Annotated[tuple[dict[str, str | None], ...], Field(min_length=1)]


Finding = Annotated[ModelFacts | DataFacts | Rejected, Field(discriminator="kind")]
parse_finding: TypeAdapter[Finding] = TypeAdapter(Finding)
