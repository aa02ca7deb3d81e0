"""What there is to choose from: recipes and families."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from app.api.dependencies import AskerDep, CallerDep
from app.api.openapi import problems
from app.core.errors import InvalidRecipe
from app.core.schemas import Out, Page
from app.jobs.preflight import resolve_recipe
from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec
from compression.schema.errors import CompressionError
from compression.schema.recipe.presets import PRESETS
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Targets

router = APIRouter(prefix="/v1", tags=["reference"])


class Preset(Out):
    """A recipe that is there by name."""

    name: str
    summary: str
    recipe: Recipe


class RecipesOut(Page[Preset]):
    """The presets, and JSON schemas."""

    recipe_schema: Annotated[dict[str, Any], Field(serialization_alias="schema", description="Of a recipe.")]
    targets_schema: dict[str, Any]
    evaluate_schema: dict[str, Any]


class RecipeOut(Out):
    """A recipe, whole."""

    recipe: Recipe


@router.get("/recipes")
def recipes(_caller: CallerDep) -> RecipesOut:
    """The presets, each a whole recipe, and the JSON schemas of recipes, of targets and of what is evaluated."""
    return RecipesOut(
        items=[Preset(name=name, summary=summary, recipe=recipe) for name, (recipe, summary) in PRESETS.items()],
        recipe_schema=Recipe.model_json_schema(),
        targets_schema=Targets.model_json_schema(),
        evaluate_schema=JobEvaluate.model_json_schema(),
    )


@router.post("/recipes/check", responses=problems(InvalidRecipe, CompressionError))
def check_recipe(body: dict[str, Any], _caller: AskerDep) -> RecipeOut:
    """Check a recipe by itself, and answer it whole, with what it leaves out. A model and data are a job's `validate_only`."""
    return RecipeOut(recipe=resolve_recipe(body, ()))


@router.get("/families")
def families(_caller: CallerDep) -> Page[ArchitectureSpec]:
    """The model families that Lathe can take apart."""
    return Page(items=list(ARCHITECTURE_SPECS.values()))
