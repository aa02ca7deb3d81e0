"""What is cut away, by what it is chosen, and how the model recovers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compression.recipe.base import Axis, Config, Epochs, Patience, Rate


class Recovery(Config):
    """Training right after the cut, in steps: shallow layers first, then all; L2 adapted to the validation score."""

    epochs: Epochs = 20
    rate: Rate = 1e-5
    shallow_first: Annotated[bool, Field(description="Train the lower half of the layers alone for the first half.")] = True
    adapt_l2: Annotated[bool, Field(description="Double weight decay when validation falls, halve it when it rises.")] = True
    patience: Annotated[Patience, Field(description="As elsewhere; epochs of the shallow layers alone are not counted.")] = None


class Prune(Config):
    """Remove whole channels, heads and feed-forward units, so that shapes really shrink."""

    ratio: Annotated[float, Field(gt=0, lt=1, description="Share of units removed on each of the axes.")] = 0.3
    axes: Annotated[tuple[Axis, ...], Field(min_length=1, description="What is made narrower.")] = ("hidden", "heads", "ffn")
    importance: Annotated[
        Literal["l1", "l1_weight"],
        Field(description="l1: L1 norm of a unit's activations on calibration rows. l1_weight: L1 norm of its weights."),
    ] = "l1"
    multiple: Annotated[int, Field(ge=1, le=256, description="The feed-forward width is rounded to this multiple.")] = 64
    calibration_rows: Annotated[int, Field(ge=8, le=8192, description="Rows of train that the activations come from.")] = 512
    recovery: Recovery | None = None

    @model_validator(mode="after")
    def _axes_are_distinct(self) -> "Prune":
        if len(set(self.axes)) != len(self.axes):
            raise ValueError("axes names the same axis twice")
        return self
