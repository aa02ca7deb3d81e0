"""What the student learns from its teacher."""

from typing import Annotated

from pydantic import Field, model_validator

from compression.recipe.augment import Augment
from compression.recipe.base import Config, Patience, Rate, Weight


class Distill(Config):
    """Train the pruned, fake-quantized student on the prepared teacher (Hinton et al. 2015; TinyBERT, Jiao et al. 2020)."""

    epochs: Annotated[int, Field(ge=1, le=200, description="Passes over the train split.")] = 8
    rate: Rate = 2e-4
    temperature: Annotated[float, Field(gt=0, le=100, description="τ of the soft targets.")] = 3.0
    soft: Weight = 1.0
    hard: Weight = 0.3
    hidden: Annotated[Weight, Field(description="Of the hidden states' error, relative to the teacher's mean square.")] = 5.0
    attention: Weight = 0.0
    patience: Patience = None
    augment: Annotated[
        Augment | None, Field(description="More rows that the teacher labels; hard labels do not count on them.")
    ] = None

    @model_validator(mode="after")
    def _some_term_is_left(self) -> "Distill":
        if not (self.soft or self.hard or self.hidden or self.attention):
            raise ValueError("all four weights are 0: nothing to learn from")
        return self
