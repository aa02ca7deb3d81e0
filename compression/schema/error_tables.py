"""Error tables: what each layer's output loses at each width, without a layer, and in each integer scheme. Torch-free.

`compression.pruning.error_tables` computes them once for a model and its data; `planning.search` solves for any target with
them, without torch and without the model. Every error is a share: the mean square of an output's change on calibration rows,
divided by the mean square of the output itself.
"""

from bisect import bisect_left
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compression.schema.config import Config

WIDTHS = 8
"""Widths at which a group's error is known, beside the whole one: 7/8, 6/8 … of its units, and none."""
MOST_GROUPS, MOST_LAYERS, MOST_SCHEMES = 4096, 2048, 16
Key = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.\-]+$")]
Error = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Units = Annotated[int, Field(ge=0, le=1 << 20)]


def widths_of(units: int) -> list[int]:
    """Return the widths at which a group's error is known: from all units to none."""
    return sorted({round(units * left / WIDTHS) for left in range(WIDTHS + 1)}, reverse=True)


class WidthError(Config):
    """The error of a group that keeps so many units, with the weights that read them updated."""

    units: Annotated[Units, Field(description="Units that stay.")]
    error: Annotated[Error, Field(description="Summed over the layers that read the group: of one at most about 1.")]


class GroupErrors(Config):
    """The errors of a pruning group at its widths."""

    key: Annotated[
        Key, Field(description="Axis and number as in pruning plans, for example ffn.3, heads.0, channels.7, hidden.")
    ]
    readers: Annotated[int, Field(ge=1, le=MOST_LAYERS, description="Layers that read its units, whose errors are summed.")]
    points: Annotated[tuple[WidthError, ...], Field(min_length=2, max_length=WIDTHS + 1)]
    """From all units, with the error 0, to none; units fall, errors never do."""

    @model_validator(mode="after")
    def _errors_rise(self) -> Self:
        units, errors = [point.units for point in self.points], [point.error for point in self.points]
        if any(after >= before for before, after in pairwise(units)) or units[-1] != 0:
            raise ValueError(f"{self.key}: units must fall from all to 0")
        if errors[0] != 0 or errors != sorted(errors):
            raise ValueError(f"{self.key}: errors must begin at 0 and never fall")
        return self

    @property
    def units(self) -> int:
        """Return all units of the group."""
        return self.points[0].units

    def at(self, units: int) -> float:
        """Return the error with so many units: on a straight line between known widths. Raises ValueError outside of them."""
        if not 0 <= units <= self.units:
            raise ValueError(f"{self.key} has {self.units} units: {units} cannot stay")
        rising = self.points[::-1]
        place = bisect_left([point.units for point in rising], units)
        above = rising[place]
        if above.units == units:
            return above.error
        below = rising[place - 1]
        share = (units - below.units) / (above.units - below.units)
        return below.error + share * (above.error - below.error)


class LayerErrors(Config):
    """A layer, or a residual block, that can be taken out as a whole."""

    name: Annotated[Key, Field(description="Its number in a transformer, its name in a network.")]
    change: Annotated[Error, Field(description="Mean square of what it adds to the stream / that of the stream after it.")]
    groups: Annotated[tuple[Key, ...], Field(max_length=MOST_GROUPS)] = ()
    """Keys of the groups that go with it."""


class IntegerErrors(Config):
    """A layer with a matrix in the integer schemes."""

    layer: Annotated[Key, Field(description="The module's name.")]
    schemes: Annotated[dict[Key, Error], Field(max_length=MOST_SCHEMES)]
    """Scheme → error of its output, with its weights rounded, and its inputs if the layer rounds them itself."""


class ErrorTables(Config):
    """What a solver needs to know of a model beside its costs."""

    version: Literal[1] = 1
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of model, calibration rows and settings.")]
    rows: Annotated[int, Field(ge=1, le=1 << 20, description="Calibration rows.")]
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, description="What computing them took.")]
    groups: Annotated[tuple[GroupErrors, ...], Field(max_length=MOST_GROUPS)]
    layers: Annotated[tuple[LayerErrors, ...], Field(max_length=MOST_LAYERS)] = ()
    integers: Annotated[tuple[IntegerErrors, ...], Field(max_length=1 << 14)] = ()
    """In the scheme that the model simulates, and in weight-only-int8 if that is weight-only-int4; none of a model in floating
    point."""

    @property
    def by_key(self) -> dict[str, GroupErrors]:
        """Return the groups by their keys."""
        return {group.key: group for group in self.groups}

    def without(self, layer: LayerErrors) -> float:
        """Return the error without a layer, in the unit of the widths' errors.

        On average a layer counts as all of its groups without a unit. Layers compare to each other by their `change`, which is
        a share of the stream, while a group's error is a share of what the group's readers add to it.
        """
        known = self.by_key
        whole = [sum(known[key].points[-1].error for key in each.groups if key in known) or 1.0 for each in self.layers]
        mean = sum(each.change for each in self.layers) / len(self.layers)
        return sum(whole) / len(whole) * (layer.change / mean if mean else 1.0)
