"""The stages of a job: the names of their rows, the keys of their settings, their order. Torch-free. A package that is
installed beside Lathe adds a stage by an entry point of the group `lathe.stages` that names a `StageSpec`.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from compression.schema.plugins import add_plugins
from compression.schema.specs import StageSpec

BASELINE, QUANTIZED, PRUNED, DISTILLED = "baseline", "quantized", "pruned", "distilled"

BUILT_IN = (
    StageSpec(BASELINE, "prepare", "compression.engine.stages.prepare:STAGE"),
    StageSpec(QUANTIZED, "quantize", "compression.engine.stages.quantize:STAGE", after=BASELINE),
    StageSpec(PRUNED, "prune", "compression.engine.stages.prune:STAGE", after=QUANTIZED),
    StageSpec(DISTILLED, "distill", "compression.engine.stages.distill:STAGE", after=PRUNED),
)

STAGE_SPECS: dict[str, StageSpec] = {}
"""Stages by the name of their row, in the order of the method."""


def _add(spec: StageSpec) -> None:
    """Insert a stage after its predecessor. Raises ValueError if that is unknown or a name is taken."""
    order = list(STAGE_SPECS.values())
    names = [one.name for one in order]
    if spec.name in names or spec.recipe_key in [one.recipe_key for one in order]:
        raise ValueError(f"there is already a stage {spec.name!r}, or one with the key {spec.recipe_key!r}")
    if spec.after is not None and spec.after not in names:
        raise ValueError(f"it follows {spec.after!r}, which is no stage")
    order.insert(names.index(spec.after) + 1 if spec.after is not None else 0, spec)
    STAGE_SPECS.clear()
    STAGE_SPECS.update({one.name: one for one in order})


for each in BUILT_IN:
    _add(each)
add_plugins("lathe.stages", StageSpec, _add)
STAGES = tuple(STAGE_SPECS)


def _known(name: str) -> str:
    if name not in STAGE_SPECS:
        raise ValueError(f"is none of {', '.join(STAGES)}")
    return name


def wanted(recipe: Mapping[str, object]) -> tuple[str, ...]:
    """Return the rows that a recipe leads to. recipe: as stored; a missing key has its default."""
    rows = []
    for name, spec in STAGE_SPECS.items():
        is_default = spec.settings is None  # stages of installed packages are left out by default
        if spec.after is None or (recipe[spec.recipe_key] is not None if spec.recipe_key in recipe else is_default):
            rows.append(name)
    return tuple(rows)


Stage = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": list(STAGES), "type": "string"})]
"""The name of a stage's row."""
