"""What there is to choose from: recipes and families."""

from typing import Any

from fastapi import APIRouter

from app.deps import AskerDep, CallerDep
from app.preflight import resolve_recipe
from app.schemas import Page
from compression.catalog import FAMILIES
from compression.recipe import PRESETS, JobEvaluate, Recipe, Targets

router = APIRouter(prefix="/v1", tags=["reference"])


@router.get("/recipes")
def recipes(_caller: CallerDep) -> dict[str, Any]:
    """The presets, each a whole recipe, and the JSON schemas of recipes, of targets and of what is evaluated."""
    items = [
        {"name": name, "summary": summary, "recipe": recipe.model_dump(mode="json")}
        for name, (recipe, summary) in PRESETS.items()
    ]
    schemas = {"targets_schema": Targets.model_json_schema(), "evaluate_schema": JobEvaluate.model_json_schema()}
    return {"items": items, "next_page_token": None, "schema": Recipe.model_json_schema(), **schemas}


@router.post("/recipes/check")
def check_recipe(body: dict[str, Any], _caller: AskerDep) -> dict[str, Any]:
    """Check a recipe by itself, and answer it whole, with what it leaves out. A model and data are a job's `validate_only`."""
    return {"recipe": resolve_recipe(body, ()).model_dump(mode="json")}


@router.get("/families", response_model=Page)
def families(_caller: CallerDep) -> Page:
    """The model families that Lathe can take apart."""
    return Page(items=[family.model_dump(mode="json") for family in FAMILIES.values()])
