"""The range of a layer's input: its integers, and whether outliers break it."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class LayerRange(Config):
    """One linear layer's input on calibration rows of train, as the artifact of its row quantizes it.

    Only real tokens count. A range is broken by outliers if the largest value is at least 4 times the value that 99 % of all
    values do not exceed, and if in effect less than a sixteenth of the levels is used: of 8 bits at most 4 are left.
    """

    layer: str
    largest: Annotated[float, Field(description="The largest |activation|.")]
    percentile: Annotated[float, Field(description="99 % of |activations| are at most this.")]
    ratio: Annotated[float, Field(description="largest / percentile.")]
    beyond: Annotated[float, Field(description="Share of |activations| larger than 4 × percentile.")]
    levels_used: float | None
    """Share of levels in effective use: 2 to the integers' entropy, by their number. null: activations in floating point."""
    broken: Annotated[bool, Field(description="Whether outliers break the range.")]
    smooths_into: str | None = None
    """The layer before it that smoothing can exactly scale outliers down in; null: none."""
