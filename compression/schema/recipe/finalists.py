"""Short distillations among cuts of one size, before one of them is taken. Torch-free."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from compression.schema.config import Config

if TYPE_CHECKING:
    from compression.schema.recipe.distill import Distill
    from compression.schema.recipe.prune import Prune


class Finalists(Config):
    """Distill the cuts with drawn weights of layers that change the model's answers least, and take the one that keeps most on
    validation.
    """

    cuts: Annotated[int, Field(ge=2, le=8, description="How many are distilled, at most.")] = 3
    steps: Annotated[int, Field(ge=2, le=100_000)] = 100
    """Optimizer steps of each, about: it ends with a whole pass over the rows that it takes of train."""


def hindrance(prune: "Prune | None", distill: "Distill | None", limits: Mapping[str, float | None]) -> tuple[str, str] | None:
    """Return the key of a recipe that finalists cannot be distilled by, and why, with what to change; None if no key hinders.

    limits: of all training, by key of `train`.
    """
    if prune is None or prune.finalists is None:
        return None
    if distill is None:
        return "prune.finalists", "finalists are distilled, and distill is null: set it, or leave finalists out"
    if (limit := next((key for key, value in limits.items() if value is not None), None)) is not None:
        return f"train.{limit}", "finalists would use it up before the full distillation: leave one of them out"
    return None
