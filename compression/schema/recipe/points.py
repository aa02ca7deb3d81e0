"""What a recipe that asks for several sizes at once (`prune.points`) cannot ask for beside them. Torch-free."""

from collections.abc import Collection, Mapping

from compression.schema.recipe.auto import Auto
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune


def hindrance(
    prune: Prune | None,
    distill: Distill | None,
    auto: Auto | None,
    limits: Mapping[str, float | None],
    installed: Collection[str],
) -> tuple[str, str] | None:
    """Return the key of a recipe that several sizes cannot be made by, and why, with what to change; None if no key hinders.

    limits: of all training, by key of `train`. installed: keys of stages that packages add, of this recipe.
    """
    if prune is None or prune.points == 1:
        return None
    if distill is None:
        return "prune.points", f"each of {prune.points} sizes is distilled, and distill is null: set it, or points to 1"
    if auto is not None:
        return "prune.points", f"auto looks for one size, and points asks for {prune.points}: leave out one of them"
    if prune.recovery is not None or prune.reconstruct:
        key, off = ("recovery", "null") if prune.recovery is not None else ("reconstruct", "false")
        return f"prune.{key}", f"points distills each cut as it is: set it to {off}"
    if (limit := next((key for key, value in limits.items() if value is not None), None)) is not None:
        return f"train.{limit}", "the first of the points would use it up before the last: set distill.epochs instead"
    if installed:
        return "prune.points", f"{min(installed)} changes one model, and points makes several: leave out one of them"
    return None
