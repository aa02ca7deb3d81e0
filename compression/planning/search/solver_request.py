"""What the service asks the solver's process, and what that replies: each a line of JSON. Imports no solver."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config
from compression.schema.device_table import DeviceTable
from compression.schema.target_answer import By, ScoreFacts, TargetAnswer, TargetFront, TargetQuestion


class SolverRequest(Config):
    """A question about a job, with all that is known of it."""

    tables: Annotated[str, Field(description="The sealed text of its tables.")]
    search: Annotated[str, Field(description="The sealed text of its solved search.")]
    device_table: DeviceTable | None
    scores: ScoreFacts | None
    tokens: int
    batch: int
    asked: TargetQuestion | By
    seconds: Annotated[float, Field(gt=0)]


class SolverReply(Config):
    """One of its fields, all others null."""

    answer: TargetAnswer | None = None
    front: TargetFront | None = None
    refused: Annotated[dict[str, str | None] | None, Field(description="A CompressionError.")] = None
    late: Annotated[bool, Field(description="The solver had found nothing in its time.")] = False
    unreadable: Annotated[str | None, Field(description="Why the tables cannot be used.")] = None
