"""How much of the score may be lost, as a paired test of each artifact bounds it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from compression.schema.config import Config


class QualityGate(Config):
    """The most that the score may drop: a paired test on the validation rows, of each artifact."""

    max_drop: Annotated[float | None, Field(ge=0, le=1, exclude_if=lambda value: value is None)] = 0.008
    """original − compressed score on validation, from 0 to 1: 0.008 is 0.8 points; of a language model nats a token. null: as
    much as `retention` leaves; it is then not stored, since older clients read a number alone."""
    retention: Annotated[float | None, Field(gt=0, le=1, exclude_if=lambda value: value is None)] = None
    """In place of max_drop: the share of the original's validation score that stays at least."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """Of each one-sided bound. accept: the upper bound is at most max_drop; regression: the lower one is above; else undecided.
    """

    @model_validator(mode="before")
    @classmethod
    def _retention_alone(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("retention") is not None:
            return {"max_drop": None, **given}
        return given

    @model_validator(mode="after")
    def _one_limit(self) -> "QualityGate":
        if (self.max_drop is None) == (self.retention is None):
            raise ValueError("name either max_drop or retention")
        return self
