"""What a job can choose from: recipes and model families."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from app.api.dependencies import AskerDep, CallerDep
from app.api.openapi import problems
from app.core.errors import InvalidRecipe
from app.core.schemas import Out, Page
from app.jobs.preflight import resolve_recipe
from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec
from compression.schema.errors import CompressionError
from compression.schema.recipe.base import MOST_PARTS, Task
from compression.schema.recipe.presets import OF_MODALITIES, PRESETS
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Targets

router = APIRouter(prefix="/v1", tags=["reference"])


class Preset(Out):
    """A recipe with a name."""

    name: str
    summary: str
    recipe: Recipe
    of_modalities: Annotated[dict[str, Recipe], Field(description="Of other data than texts: modality → its own recipe.")]


class RecipesOut(Page[Preset]):
    """The presets, and JSON schemas."""

    recipe_schema: Annotated[dict[str, Any], Field(serialization_alias="schema", description="Of a recipe.")]
    targets_schema: dict[str, Any]
    evaluate_schema: dict[str, Any]


class RecipeOut(Out):
    """A complete recipe."""

    recipe: Recipe


Tasks = Annotated[
    tuple[Task, ...],
    Query(max_length=MOST_PARTS, description="Each recipe as a job on data of these tasks gets it; without any, as for texts."),
]


@router.get("/recipes")
def recipes(_caller: CallerDep, task: Tasks = ()) -> RecipesOut:
    """List the presets, each a complete recipe, and the JSON schemas of recipes, targets and evaluation."""
    return RecipesOut(
        items=[
            Preset(
                name=name,
                summary=summary,
                recipe=resolve_recipe(name, task),
                of_modalities={kind: own[name] for kind, own in OF_MODALITIES.items() if name in own},
            )
            for name, (_, summary) in PRESETS.items()
        ],
        recipe_schema=Recipe.model_json_schema(),
        targets_schema=Targets.model_json_schema(),
        evaluate_schema=JobEvaluate.model_json_schema(),
    )


@router.post("/recipes/check", responses=problems(InvalidRecipe, CompressionError))
def check_recipe(body: dict[str, Any], _caller: AskerDep, task: Tasks = ()) -> RecipeOut:
    """Validate a recipe, and return it complete with its defaults. To check it with a model and data, use `validate_only`."""
    return RecipeOut(recipe=resolve_recipe(body, task))


@router.get("/families")
def families(_caller: CallerDep) -> Page[ArchitectureSpec]:
    """List the supported model families."""
    return Page(items=list(ARCHITECTURE_SPECS.values()))
