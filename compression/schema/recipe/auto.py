"""The search for the size that a retention target allows: rounds of short trainings, then a full one."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune


class Auto(Config):
    """Cut to the smallest (or fastest) model that is expected to keep `targets.retention` on validation.

    Each round solves for a size, cuts, distills shortly and scores on validation; what is kept is fitted over the predicted
    error. Then one size is distilled fully, and while time is left others: larger ones until one keeps the target, then smaller
    ones. `prune.ratio` is the first size that is tried, or what `prune.target_params`, `target_flops` and `target_bytes` allow:
    no size exceeds that, whatever is kept.
    """

    budget_minutes: Annotated[float, Field(gt=0, le=1e6)] = 30.0
    """Minutes of the whole job, each dataset with an equal share. The trainings after the cut are fitted into what is left of
    them; results then depend on the machine's speed."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """Of the quality gate that the job has if its targets name none: accept, if so much of the score is surely kept."""
    objective: Literal["parameters", "latency"] = "parameters"
    """What is made small. latency: the milliseconds that the worker's device table predicts."""
    rounds: Annotated[int, Field(ge=1, le=8, description="Sizes that are tried by short distillations, at most.")] = 4
    steps: Annotated[int, Field(ge=2, le=100_000)] = 200
    """Optimizer steps of a short distillation, about: it ends with a whole pass over the rows that it takes of train."""


def hindrance(prune: Prune | None, distill: Distill | None, limits: Mapping[str, float | None]) -> tuple[str, str] | None:
    """Return the key of a recipe that leaves nothing to search for, and why, with what to change; None if no key does.
    limits: of all training, by key of `train`.
    """
    if prune is None or distill is None:
        key = "prune" if prune is None else "distill"
        return key, f"auto tries sizes by cuts and distillations, and {key} is null"
    if prune.search != "solver":
        return "prune.search", "auto solves for sizes: set it to solver"
    if prune.target_latency is not None:
        return "prune.target_latency", "auto times no cut: set auto.objective to latency, or leave it out"
    if prune.recovery is not None or prune.reconstruct:
        key = "recovery" if prune.recovery is not None else "reconstruct"
        return f"prune.{key}", "auto distills each cut as it is: leave it out"
    if (limit := next((key for key, value in limits.items() if value is not None), None)) is not None:
        return (
            f"train.{limit}",
            "the rounds of auto would use it up before the full distillation: set auto.budget_minutes instead",
        )
    return None
