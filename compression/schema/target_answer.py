"""Another target for a finished job, and what a cut to it would come to. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compression.schema.config import Config
from compression.schema.recipe.base import PartName
from compression.schema.recipe.prune import TargetLatency
from compression.schema.report.measurements import Parameters, Score, Shape

FRONT_POINTS = 12
By = Literal["parameters", "milliseconds"]


class TargetQuestion(Config):
    """Targets for the cut of a job: at least one; of several, all hold."""

    target_params: Annotated[float | None, Field(gt=0, le=1e15)] = None
    """The most parameters to keep (1 and above), or the least share to remove (below 1), as in recipe.prune."""
    target_flops: Annotated[float | None, Field(gt=0, le=1e18)] = None
    """The most multiply-adds of one row to keep (1 and above), or the least share to remove (below 1)."""
    target_bytes: Annotated[float | None, Field(gt=0, le=1e15)] = None
    """The most bytes of an artifact's weights (1 and above), or the least share of the whole model's to remove (below 1)."""
    target_latency: TargetLatency | None = None
    """As a device table predicts it."""
    device_table: Annotated[str | None, Field(min_length=1, max_length=40)] = None
    """Id of the table that predicts milliseconds; null: of the job's processor and threads, the most like its machine."""
    part: Annotated[PartName, Field(description="Of several datasets, the one whose model is cut.")] = ""

    @model_validator(mode="after")
    def _asks_something(self) -> "TargetQuestion":
        if all(each is None for each in (self.target_params, self.target_flops, self.target_bytes, self.target_latency)):
            raise ValueError("name a target: target_params, target_flops, target_bytes or target_latency")
        return self


class ScoreFacts(Config):
    """What a job's own cut did to the score, after its training."""

    before: Annotated[Score, Field(description="On validation, of the stage before the cut.")]
    after: Annotated[Score, Field(description="On validation, of the job's last stage.")]


class PredictedScore(Config):
    """What a model of the predicted error may score on validation, once trained as the job's own was."""

    metric: str
    value: float
    standard_error: Annotated[float, Field(description="Of the fit and of both scores that it rests on.")]
    lower_is_better: bool
    extrapolated: Annotated[bool, Field(description="Whether the predicted error is beyond all cuts that were judged.")]
    basis: Annotated[str, Field(description="What it rests on, in words.")]


class TargetPoint(Config):
    """A cut that the solver chose, as predicted. Nothing of it was trained or measured."""

    shape: Shape
    layers: Annotated[tuple[int, ...], Field(description="Numbers of the layers, or residual blocks, that stay.")]
    parameters: Parameters
    bytes: Annotated[int, Field(description="Of an ONNX artifact's weights, as forecasts count them.")]
    flops: Annotated[
        int | None,
        Field(description="Multiply-adds of one image, or of one text of evaluate.length tokens; null if not known."),
    ]
    milliseconds: Annotated[float | None, Field(description="By the device table; null without one.")]
    error: Annotated[float, Field(description="Sum of the layers' errors, by the tables.")]
    score: PredictedScore | None
    proven: bool
    """Whether it is proven that no other cut within the targets errs 0.1 % less; of a nearest point it says nothing."""


class WholeModel(Config):
    """The model before the cut, in the same figures: bytes and milliseconds in the scheme of the job's own cut."""

    parameters: Parameters
    bytes: int
    flops: int | None
    milliseconds: float | None


class TargetAnswer(Config):
    """What a cut to other targets would come to."""

    reached: bool
    missed: Annotated[str | None, Field(description="If the targets are out of reach, why; the point is the nearest one.")]
    point: TargetPoint
    whole: WholeModel
    no_milliseconds: Annotated[str | None, Field(description="Why there are none.")]
    no_score: Annotated[str | None, Field(description="Why no score is predicted.")]
    device_table: Annotated[str | None, Field(description="Id of the table that predicted milliseconds.")] = None


class TargetFront(Config):
    """Cuts of a job's model from mild to deep: the least predicted error at each size or time."""

    by: By
    points: Annotated[tuple[TargetPoint, ...], Field(max_length=FRONT_POINTS)]
    whole: WholeModel
    no_milliseconds: Annotated[str | None, Field(description="Why there are none.")]
    no_score: Annotated[str | None, Field(description="Why no score is predicted.")]
    device_table: Annotated[str | None, Field(description="Id of the table that predicted milliseconds.")] = None
