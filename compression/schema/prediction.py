"""The output of `python -m compression predict`: the predictions of two models for one row."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from compression.schema.config import Config
from compression.schema.report.samples import Picture
from compression.schema.validation import Rejected

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]
Words = Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=100_000)]
LongText = Annotated[str, Field(max_length=1 << 20)]


class Predicted(Config):
    """A prediction. Fields that the task does not have are null."""

    label: Annotated[str | None, Field(max_length=200, description="The class.")] = None
    scores: Annotated[dict[str, Finite], Field(default_factory=dict, max_length=20)]
    """Softmax of the likeliest classes."""
    value: Annotated[Finite | None, Field(description="Of regression.")] = None
    tags: Annotated[Words | None, Field(description="One a word.")] = None
    text: Annotated[LongText | None, Field(description="A stretch of the context; empty: it sees no answer there.")] = None


class Answer(Predicted):
    """One model's prediction. Fields that the task does not have are null."""

    milliseconds: Annotated[Finite, Field(description="Median of `runs`, one text alone, both models by turns.")]
    runs: Annotated[int, Field(ge=1, le=1000)]
    runtime: Annotated[str, Field(max_length=200)]
    bytes: Annotated[int, Field(ge=0, le=2**60, description="Of the artifact's weights.")]


class Served(Predicted):
    """A prediction by `lathe serve`. Fields that the task does not have are null."""

    milliseconds: Annotated[Finite, Field(description="From the whole request to its answer, in the server.")]
    batch: Annotated[int, Field(ge=1, description="Rows that were computed together with it; a long context has several.")]
    runtime: Annotated[str, Field(max_length=200)]


class Answered(Config):
    """The predictions of both models for the same row."""

    asked: Annotated[dict[str, LongText | Words], Field(max_length=4, description="As it was read; an image's name or size.")]
    picture: Annotated[Picture | None, Field(description="A small copy of an image that was asked about.")] = None
    expected: LongText | Finite | Annotated[tuple[LongText, ...], Field(max_length=100_000)] | None = None
    """The row's label in the data: a class, a number, tags, or the answers; else null."""
    original: Answer
    compressed: Answer
    exclusive: Annotated[bool, Field(description="Whether no job or question was timed on this host meanwhile.")] = True


parse_answered: TypeAdapter[Answered | Rejected] = TypeAdapter(Answered | Rejected)
