"""The stages of a job: the names of their rows, the keys of their settings, their order. Torch-free.

A package that is installed beside Lathe adds one by an entry point of the group `lathe.stages` that names a `StageSpec`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from compression.schema.plugins import plugins
from compression.schema.recipe.base import Config

BASELINE, QUANTIZED, PRUNED, DISTILLED = "baseline", "quantized", "pruned", "distilled"


@dataclass(frozen=True)
class StageSpec:
    """One stage, as recipes and reports name it."""

    name: str  #: of the row that it ends with, and of its checkpoint
    recipe_key: str  #: under which a recipe has its settings; null there leaves the stage out
    engine: str  #: "module:name" of its `engine.stages.registry.StageRunner`, which the engine alone imports
    after: str | None = None  #: the stage that it follows
    settings: type[Config] | None = None  #: what stands under its key; None for those that `Recipe` itself declares


BUILT_IN = (
    StageSpec(BASELINE, "prepare", "compression.engine.stages.prepare:STAGE"),
    StageSpec(QUANTIZED, "quantize", "compression.engine.stages.quantize:STAGE", after=BASELINE),
    StageSpec(PRUNED, "prune", "compression.engine.stages.prune:STAGE", after=QUANTIZED),
    StageSpec(DISTILLED, "distill", "compression.engine.stages.distill:STAGE", after=PRUNED),
)


def _ordered(specs: list[StageSpec]) -> dict[str, StageSpec]:
    """Put each stage behind the one that it follows. Raises ValueError if that is not known, or a name is taken."""
    order: list[StageSpec] = []
    for spec in specs:
        names = [one.name for one in order]
        if spec.name in names or spec.recipe_key in [one.recipe_key for one in order]:
            raise ValueError(f"two stages are called {spec.name!r} or have the key {spec.recipe_key!r}")
        if spec.after is not None and spec.after not in names:
            raise ValueError(f"the stage {spec.name!r} follows {spec.after!r}, which is no stage")
        order.insert(names.index(spec.after) + 1 if spec.after is not None else 0, spec)
    return {spec.name: spec for spec in order}


STAGE_SPECS = _ordered([*BUILT_IN, *plugins("lathe.stages", StageSpec)])
"""By the name of the row, in the order of the method."""
STAGES = tuple(STAGE_SPECS)


def _known(name: str) -> str:
    if name not in STAGE_SPECS:
        raise ValueError(f"is none of {', '.join(STAGES)}")
    return name


def wanted(recipe: Mapping[str, object]) -> tuple[str, ...]:
    """List the rows that a recipe leads to. recipe: as it is stored; a key that it lacks has its default."""
    return tuple(
        name
        for name, spec in STAGE_SPECS.items()
        if spec.after is None or recipe.get(spec.recipe_key, spec.settings is None or None) is not None
    )


Stage = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": list(STAGES), "type": "string"})]
"""The name of a stage's row."""
