"""before.json: in every artifact's folder, states its source and each stage's changes. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config
from compression.schema.recipe.base import Task
from compression.schema.report.measurements import Latency, NotMeasured, Row, Score, Size
from compression.schema.stages import Stage


class Figures(Config):
    """The figures measured on one artifact's own files."""

    size: Size
    latency: Latency | NotMeasured
    score: Score | NotMeasured
    validation: Annotated[Score | NotMeasured | None, Field(description="The score on validation; null in older files.")] = None
    peak_memory_bytes: Annotated[int | NotMeasured, Field(description="Resident peak of the process that only serves it.")]


class Before(Config):
    """The figures that an artifact is compared with, in its own folder: judging it needs no service.

    Rows are the report's, without `ranges`, which are long and stay in the report with the sensitivities.
    """

    version: Literal[1] = 1
    job: Annotated[str | None, Field(description="The job's id; null where the engine was run by hand.")]
    artifact: Annotated[str, Field(description="Name of the artifact that this file lies in.")]
    stage: Stage
    task: Task
    part: Annotated[str | None, Field(description="Of several datasets, the one that artifact and rows are for.")] = None
    pairs: Annotated[bool | None, Field(description="Whether each row has a second text; null in older files.")] = None
    figures: Figures
    """Of this artifact. A row is measured on one form of a stage's model, which its `artifact` names."""
    baseline: Annotated[Row, Field(description="The original, as the job compared with it: the first of `rows`.")]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    """From the baseline to the artifact's stage; all at the job's end."""
    environment: Annotated[dict[str, str], Field(description="Versions, processor, device and threads that made the artifact.")]
