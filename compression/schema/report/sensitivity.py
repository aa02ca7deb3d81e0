"""The curve of what cuts of one axis do to the score."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class Sensitivity(Config):
    """The effect of a cut of one axis alone on the score, before any training."""

    ratio: Annotated[float, Field(description="Asked; 0 is the model before the cut, on the same rows.")]
    taken: Annotated[float, Field(description="At the nearest shape that the stock config can express.")]
    parameters: Annotated[int, Field(description="That the whole model would be left with.")]
    score: Annotated[float, Field(description="The task's metric on (at most 256) rows of validation.")]
