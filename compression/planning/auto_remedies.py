"""What is offered for a missed target if the recipe looks for the size itself, or makes several. Torch-free."""

from collections.abc import Iterator, Sequence

from compression.schema.recipe.auto import Auto
from compression.schema.recipe.prune import TARGET_KEYS, Prune
from compression.schema.recipe.recipe import MOST_MINUTES, Recipe
from compression.schema.report.measurements import Remedy

OF_SIZES = ("recipe.prune",)
"""Keys by which other recipes say how much goes: here that is looked for."""


def more_time(auto: Auto, *, missed: bool) -> Iterator[Remedy]:
    """Yield more time for the search, if a target of the score is missed."""
    if missed and 2 * auto.budget_minutes <= MOST_MINUTES:
        why = "no size kept the target; if time ended the search, twice of it allows longer distillations and further sizes"
        yield Remedy(key="recipe.auto.budget_minutes", now=auto.budget_minutes, proposed=2 * auto.budget_minutes, why=why)


def _larger(prune: Prune | None) -> Iterator[Remedy]:
    """Yield that larger sizes may be tried, for each limit of all sizes."""
    for key in TARGET_KEYS:
        if prune is not None and (limit := getattr(prune, key)) is not None:
            needed = prune.mixed_bits and key == "target_bytes"
            more = (2 * limit if limit >= 1 else limit / 2) if needed else None  # bits are chosen within bytes
            how = "with more bytes" if needed else "without this limit"
            why = f"no size that was tried kept the target; {how} larger ones may be tried"
            yield Remedy(key=f"recipe.prune.{key}", now=limit, proposed=more, why=why)


def of_sizes(recipe: Recipe, found: Sequence[Remedy], *, missed: bool) -> list[Remedy]:
    """Return the remedies that suit a recipe: those of one that looks for sizes, or makes several, do not say how much goes.

    missed: whether a target of the score is.
    """
    if recipe.auto is None and (recipe.prune is None or recipe.prune.points == 1):
        return [*found]
    more = more_time(recipe.auto, missed=missed) if recipe.auto is not None else ()
    larger = _larger(recipe.prune) if recipe.auto is not None and missed else ()
    return [*more, *larger, *(one for one in found if not one.key.startswith(OF_SIZES))]
