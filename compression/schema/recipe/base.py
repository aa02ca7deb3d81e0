"""The names that recur in recipes."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from compression.schema.tasks import FORMATS, TASKS

if TYPE_CHECKING:  # which names there are is known once packages beside this one have been read
    Task: TypeAlias = str
    JobTask: TypeAlias = str
    DataFormat: TypeAlias = str
else:
    Task = Literal[tuple(TASKS)]
    JobTask = Literal[(*TASKS, "several")]
    """What a job is for; `several`: it names several datasets, each with a task of its own."""
    DataFormat = Literal[FORMATS]
PartName = Annotated[str, Field(max_length=40, pattern=r"^([a-z0-9][a-z0-9-]*)?$")]
"""What one of several datasets is called within a job; nothing where it is the only one."""
MOST_PARTS = 16
Split = Literal["train", "validation", "test"]
MOST_TEACHERS = 8
"""Models that a job may name as teachers."""
DataSplit = Literal["train", "validation", "test", "unlabelled"]
"""What files may be sent for: the splits that have labels, and texts without."""
Axis = Literal["hidden", "heads", "ffn", "layers", "experts", "expert_ffn", "query_rank", "kv_rank", "vocabulary"]
"""heads: of decoders whole groups, a KV head with the query heads that read it. From experts on: of decoders that have them."""
Precision = Literal["auto", "float32", "bfloat16"]
Scheme = Literal["dynamic-int8", "static-int8", "weight-only-int8", "weight-only-int4"]
ROUNDS_ACTIVATIONS: tuple[Scheme, ...] = ("dynamic-int8", "static-int8")
"""Schemes whose weights meet activations of 8 bits: an ONNX file multiplies uint8 by int8."""
StreamedScheme = Literal["dynamic-int8", "weight-only-int8", "weight-only-int4"]
"""Schemes whose integers follow from the weights alone, row by row."""
Observer = Literal["min-max", "percentile", "mse"]
Rate = Annotated[float, Field(gt=0, le=1, description="Peak learning rate of AdamW.")]
MOST_EPOCHS = 200
Epochs = Annotated[int, Field(ge=0, le=MOST_EPOCHS, description="Passes over the train split.")]
Patience = Annotated[
    int | None, Field(ge=1, le=200, description="Training ends after so many epochs without a better validation; null: never.")
]
Weight = Annotated[float, Field(ge=0, le=1000, description="Weight of this term in the loss; 0 leaves it out.")]
