"""The stages of a job: the names of their rows, the keys of their settings, their order. Torch-free. A package that is
installed beside Lathe adds a stage by an entry point of the group `lathe.stages` that names a `StageSpec`.
"""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from compression.schema.config import Config
from compression.schema.plugins import add_plugins
from compression.schema.specs import MOST_POINTS, StageSpec

BASELINE, QUANTIZED, PRUNED, DISTILLED = "baseline", "quantized", "pruned", "distilled"
POINTS = tuple(f"point{number}" for number in range(2, MOST_POINTS + 1))
"""The sizes that follow the first one, which is `distilled`, if a recipe asks for several (`prune.points`)."""

BUILT_IN = (
    StageSpec(BASELINE, "prepare", "compression.engine.stages.prepare:STAGE"),
    StageSpec(QUANTIZED, "quantize", "compression.engine.stages.quantize:STAGE", after=BASELINE),
    StageSpec(PRUNED, "prune", "compression.engine.stages.prune:STAGE", after=QUANTIZED),
    StageSpec(DISTILLED, "distill", "compression.engine.stages.distill:STAGE", after=PRUNED),
    *(
        StageSpec(name, "prune", "compression.engine.stages.points:STAGE", after=after, title=f"Point {number}", point=number)
        for number, (after, name) in enumerate(zip((DISTILLED, *POINTS), POINTS, strict=False), 2)
    ),
)

STAGE_SPECS: dict[str, StageSpec] = {}
"""Stages by the name of their row, in the order of the method."""


def _add(spec: StageSpec) -> None:
    """Insert a stage after its predecessor. Raises ValueError if that is unknown or a name is taken."""
    order = list(STAGE_SPECS.values())
    names = [one.name for one in order]
    if spec.name in names or (spec.recipe_key in [one.recipe_key for one in order] and not spec.point):
        raise ValueError(f"there is already a stage {spec.name!r}, or one with the key {spec.recipe_key!r}")
    if spec.after is not None and spec.after not in names:
        raise ValueError(f"it follows {spec.after!r}, which is no stage")
    order.insert(names.index(spec.after) + 1 if spec.after is not None else 0, spec)
    STAGE_SPECS.clear()
    STAGE_SPECS.update({one.name: one for one in order})


OTHER_KEYS = ("version", "train", "remedy", "auto")
"""Keys of a recipe that no stage has."""


def _add_installed(spec: StageSpec) -> None:
    """Add a package's stage. Raises ValueError if it could not be left out of a job, or if its names serve for something else.

    A row's name is also that of a folder, of a part of artifacts' names, and with a number of a row in the database.
    """
    if spec.after is None or spec.settings is None:
        raise ValueError("it has no `after` or no `settings`: every job would have it")
    if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", spec.name) or spec.name == "training":
        raise ValueError(f"{spec.name!r} is not a name of 1 to 16 characters a-z and 0-9, or is taken")
    if not spec.recipe_key.isidentifier() or spec.recipe_key in OTHER_KEYS or hasattr(Config, spec.recipe_key):
        raise ValueError(f"a recipe cannot have the key {spec.recipe_key!r}")
    _add(spec)


for each in BUILT_IN:
    _add(each)
add_plugins("lathe.stages", StageSpec, _add_installed)
STAGES = tuple(STAGE_SPECS)


def _known(name: str) -> str:
    if name not in STAGE_SPECS:
        raise ValueError(f"is none of {', '.join(STAGES)}")
    return name


def points_of(recipe: Mapping[str, object]) -> int:
    """Return how many sizes a recipe asks for. recipe: as stored, or its fields."""
    prune = recipe.get("prune")
    found = prune.get("points") if isinstance(prune, Mapping) else getattr(prune, "points", None)
    return found if isinstance(found, int) else 1


def wanted(recipe: Mapping[str, object]) -> tuple[str, ...]:
    """Return the rows that a recipe leads to. recipe: as stored; a missing key has its default."""
    rows = []
    for name, spec in STAGE_SPECS.items():
        is_default = spec.settings is None  # stages of installed packages are left out by default
        if spec.point:
            rows += [name] * (spec.point <= points_of(recipe))
        elif spec.after is None or (recipe[spec.recipe_key] is not None if spec.recipe_key in recipe else is_default):
            rows.append(name)
    return tuple(rows)


Stage = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": list(STAGES), "type": "string"})]
"""The name of a stage's row."""
