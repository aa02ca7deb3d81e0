"""What another target can be answered from, without the model: what a job's solver knew beside the error tables. Torch-free.

The engine writes both beside a job's checkpoints; `planning.search.targets` reads them in the service.
"""

from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config
from compression.schema.error_tables import MOST_GROUPS, MOST_LAYERS, Error, ErrorTables, Key
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.report.measurements import Shape
from compression.schema.report.network import NetworkFacts
from compression.schema.report.report import File
from compression.schema.schemes import Scheme

MOST_OUTCOMES = 64
MOST_JSON = 16 << 20
"""Bytes of each of the two texts, at most. The tables of a model of 12 layers take some 60,000."""
MOST_ORDERS = 64 << 20
"""Bytes of the orders, at most: 8 a unit, which is some 20 MB for 80 layers of 28,672 feed-forward units."""
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class TablesCheckpoint(Config):
    """Error tables as they are stored, with the files beside them."""

    tables: ErrorTables
    files: tuple[File, ...]


class ParameterFacts(Config):
    """What the parameters of a model are counted from at any shape, besides its family; nothing of a network of images."""

    rows: Annotated[int, Field(ge=0, description="Rows of the position and type tables together.")] = 0
    outputs: Annotated[int | None, Field(ge=0, description="Of the head; null if it has no weights of its own.")] = None
    dense: Annotated[bool, Field(description="Whether the head has a dense layer before its output layer.")] = False
    biases: tuple[Literal["attention", "mlp"], ...] = ()
    """Parts of a decoder's layer whose linear layers have biases."""
    biased: Annotated[bool, Field(description="Whether the head has a bias, of a decoder.")] = False


class CutOutcome(Config):
    """A cut that was judged without training."""

    error: Annotated[Error, Field(description="As predicted by the tables with the weights of the search.")]
    change: Annotated[float, Field(allow_inf_nan=False)]
    """Divergence of its answers from the whole model's; of a language model, how much its loss is higher."""


class SolvedSearch(Config):
    """A search that was solved: what was cut, what the solver counted, and what came of the cuts that were judged."""

    version: Literal[1] = 1
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Of the tables that were solved with.")]
    family: Annotated[str, Field(max_length=100, description="Its model_type.")]
    before: Annotated[Shape, Field(description="Before any cut: shares that a target removes are of this.")]
    whole: Annotated[Shape, Field(description="Before the cut of widths, with the tokens that stay.")]
    prune: Annotated[Prune, Field(description="As the job ran with.")]
    quantize: Annotated[Quantize | None, Field(description="By which the bytes of an artifact are forecast.")] = None
    scheme: Annotated[Scheme | None, Field(description="That the model computes in; null: floating point.")] = None
    network: NetworkFacts | None = None
    parameters: ParameterFacts = ParameterFacts()
    weights: Annotated[dict[Key, Weight], Field(max_length=MOST_GROUPS + MOST_LAYERS)] = Field(default_factory=dict)
    """What errors count, by the key of a group or the name of a layer; 1 of others."""
    error: Annotated[Error, Field(description="Predicted of the cut that the job made.")]
    outcomes: Annotated[tuple[CutOutcome, ...], Field(max_length=MOST_OUTCOMES)] = ()
