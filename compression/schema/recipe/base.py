"""The types that several parts of a recipe share."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from compression.schema.tasks import FORMATS, TASKS

if TYPE_CHECKING:  # the names are known only after the packages beside this one are loaded
    Task: TypeAlias = str
    JobTask: TypeAlias = str
    DataFormat: TypeAlias = str
else:
    Task = Literal[tuple(TASKS)]
    JobTask = Literal[(*TASKS, "several")]
    """The task of a job; `several`: the job names several datasets, each with its own task."""
    DataFormat = Literal[FORMATS]
PartName = Annotated[str, Field(max_length=40, pattern=r"^([a-z0-9][a-z0-9-]*)?$")]
"""The name of one of several datasets within a job; empty if it is the only one."""
MOST_PARTS = 16
Split = Literal["train", "validation", "test"]
MOST_TEACHERS = 8
"""The maximum number of teachers that a job may name."""
DataSplit = Literal["train", "validation", "test", "unlabelled"]
"""The splits that files may be sent for: those with labels, and texts without."""
Axis = Literal["hidden", "heads", "ffn", "layers", "experts", "expert_ffn", "query_rank", "kv_rank", "channels", "vocabulary"]
"""heads: in decoders whole groups, a KV head with the query heads that read it. From experts on: only in decoders that have
them. channels: of convolutions, only in networks of images."""
Precision = Literal["auto", "float32", "bfloat16"]
OptimizerName = Literal["adamw", "adamw-8bit"]
Observer = Literal["min-max", "percentile", "mse"]
Rate = Annotated[float, Field(gt=0, le=1, description="Peak learning rate of AdamW.")]
MOST_EPOCHS = 200
Epochs = Annotated[int, Field(ge=0, le=MOST_EPOCHS)]
Patience = Annotated[
    int | None, Field(ge=1, le=200, description="Training ends after so many epochs without a better validation; null: never.")
]
Weight = Annotated[float, Field(ge=0, le=1000)]
