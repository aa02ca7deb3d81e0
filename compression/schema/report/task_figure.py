"""A figure of lm-eval. Torch-free."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class TaskFigure(Config):
    """One metric of one of lm-eval's tasks, as lm-eval reports it."""

    task: str
    metric: str
    filter: Annotated[str, Field(description="How answers were read out of what was generated; none: as they were.")]
    value: Annotated[float | None, Field(description="null where it is no number, or one past 2^62.")]
    standard_error: Annotated[float | None, Field(description="null where lm-eval has none for the metric.")]
    higher_is_better: bool | None
    rows: Annotated[int | None, Field(description="Documents that were asked; of a group the sum.")]
    few_shot: Annotated[int | None, Field(description="Examples before each.")]
    version: Annotated[str, Field(description="Of the task.")]
