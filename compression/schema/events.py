"""The events on the engine's event pipe, one JSON object per line; `type` names the kind."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from compression.schema.config import Config
from compression.schema.device_table import DeviceTable
from compression.schema.job_spec import Resolved
from compression.schema.recipe.base import MOST_PARTS, PartName
from compression.schema.report.measurements import Row
from compression.schema.report.report import Artifact, File, Report
from compression.schema.stages import Stage


class Started(Config):
    """The engine runs; versions and device are known."""

    type: Literal["started"] = "started"
    environment: dict[str, str]
    stages: Annotated[tuple[Stage, ...], Field(description="Rows that this job will have.")]


class StageStarted(Config):
    """Work on a row began."""

    type: Literal["stage_started"] = "stage_started"
    stage: Stage
    resumed: Annotated[bool, Field(description="Its checkpoint was there already; nothing is trained again.")] = False


class Progress(Config):
    """The progress of a stage. At most a few per second."""

    type: Literal["progress"] = "progress"
    stage: Stage
    phase: Annotated[str, Field(max_length=60, description="For example 'tune', 'calibrate', 'distill', 'export', 'measure'.")]
    step: int
    total: int
    fraction: Annotated[float, Field(ge=0, le=1, description="Of the whole job.")]
    eta_seconds: float | None = None
    loss: float | None = None
    rate: float | None = None
    score: Annotated[float | None, Field(description="On validation, after an epoch.")] = None
    part: Annotated[PartName, Field(description="The dataset that is at work, of several.")] = ""


class Working(Config):
    """The engine is working without steps to report. At most one in ten seconds."""

    type: Literal["working"] = "working"


class Log(Config):
    """One log line for the user."""

    type: Literal["log"] = "log"
    level: Literal["info", "warning", "error"] = "info"
    message: Annotated[str, Field(max_length=4000)]


class ArtifactReady(Config):
    """An artifact was exported, reopened, verified and measured; its files are in artifacts/<name>/."""

    type: Literal["artifact"] = "artifact"
    artifact: Artifact


class StageFinished(Config):
    """A row of the table is complete."""

    type: Literal["stage_finished"] = "stage_finished"
    row: Row
    checkpoint: tuple[File, ...]
    """Files under checkpoints/<stage>/ from which a new attempt resumes."""


class PartFinished(Config):
    """One of several datasets has finished a stage and its artifact: a new attempt does not repeat it.

    Its files are in checkpoints/<stage>/, in the folder of its name; the stage's own event lists them again.
    """

    type: Literal["part_finished"] = "part_finished"
    stage: Stage
    part: Annotated[PartName, Field(min_length=1)]
    number: Annotated[int, Field(ge=0, lt=MOST_PARTS, description="Its place among the job's datasets.")]
    checkpoint: tuple[File, ...]


class TrainingSaved(Config):
    """A training checkpoint was saved: a new attempt continues from this step.

    Its files are in checkpoints/<folder>/. The receiver removes that folder once it has copied them; until then no other
    checkpoint is saved, so that no file changes while it is read.
    """

    type: Literal["training_saved"] = "training_saved"
    stage: Stage
    phase: Annotated[str, Field(max_length=60)]
    step: int
    total: int
    folder: Annotated[str, Field(pattern=r"^training-[0-9]{1,9}$")]
    files: tuple[File, ...]
    part: PartName = ""


class TablesSaved(Config):
    """Error tables were computed, taken over or solved with: a new attempt, or a later job with the same inputs, reads them.

    Its files are in checkpoints/tables/, in the folder of the dataset's name if there are several. A later event about the same
    dataset lists all files again.
    """

    type: Literal["tables_saved"] = "tables_saved"
    part: PartName = ""
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, description="What computing them took.")]
    files: Annotated[tuple[File, ...], Field(min_length=1, max_length=8)]


class DeviceTableMeasured(Config):
    """The engine measured what single layers cost on this machine: later jobs here need not."""

    type: Literal["device_table"] = "device_table"
    table: DeviceTable


class RecipeResolved(Config):
    """The device table decided what the recipe leaves to it: a new attempt does not decide again."""

    type: Literal["resolved"] = "resolved"
    resolved: Resolved


class Paused(Config):
    """The engine stopped because a pause was requested; only what was saved remains. The last event."""

    type: Literal["paused"] = "paused"


class Finished(Config):
    """The job is complete; report.json is written."""

    type: Literal["finished"] = "finished"
    report: Report


class Failed(Config):
    """The job cannot be done as requested. The last event."""

    type: Literal["failed"] = "failed"
    code: str
    cause: Annotated[str, Field(max_length=4000)]
    remedy: Annotated[str, Field(max_length=4000)]
    param: str | None = None


Event = Annotated[
    Started
    | StageStarted
    | Progress
    | Working
    | Log
    | ArtifactReady
    | PartFinished
    | StageFinished
    | TrainingSaved
    | TablesSaved
    | DeviceTableMeasured
    | RecipeResolved
    | Paused
    | Finished
    | Failed,
    Field(discriminator="type"),
]
parse_event: TypeAdapter[Event] = TypeAdapter(Event)
"""Parses a line of the pipe: `parse_event.validate_json(line)`."""
