"""What a job will be, told from stored facts before it is accepted: no file is opened and nothing is started."""

from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import resources
from app.errors import InvalidRecipe, InvalidRequest, NotReady, recipe_problem
from app.models import Dataset, Job, Model
from app.resources import R
from app.schemas import JobCreate
from compression.catalog import Preflight, preflight
from compression.recipe import PRESETS, Recipe, preset
from compression.report import DataFacts, ModelFacts


def resolve_recipe(asked: str | dict[str, Any], task: str) -> Recipe:
    """Turn a preset's name or a whole recipe into a recipe. Raises InvalidRecipe, which names the key."""
    if isinstance(asked, str):
        if asked not in PRESETS:
            raise InvalidRecipe(f"no preset {asked!r}; there are: {', '.join(PRESETS)}", param="recipe")
        return preset(asked, task)
    try:
        return Recipe.model_validate(asked)
    except ValidationError as error:
        raise recipe_problem(error, "recipe") from error


def _ready(session: Session, kind: type[R], team: str, identifier: str, param: str) -> R:
    row = resources.get(session, kind, team, identifier, param=param, hold="share")
    if row.state != resources.READY:
        reasons = "; ".join(str(reason.get("cause")) for reason in row.reasons)
        raise NotReady(f"{identifier} is {row.state}" + (f": {reasons}" if reasons else ""), param=param)
    return row


def plan(session: Session, team: str, body: JobCreate) -> tuple[Job, Preflight]:
    """Check that recipe, model, data and their fit are right; return the job's row, not stored yet, and the forecast.

    Raises InvalidRecipe, NotFound, NotReady, and what the engine's rules say (CompressionError).
    """
    model = _ready(session, Model, team, body.models.base, "models.base")
    dataset = _ready(session, Dataset, team, body.datasets[0], "datasets.0")
    facts = DataFacts.model_validate(dataset.facts)
    if body.task not in (None, facts.task):
        raise InvalidRequest(f"the dataset is for {facts.task}, the job for {body.task}", param="task")
    recipe = resolve_recipe(body.recipe, facts.task)
    forecast = preflight(ModelFacts.model_validate(model.facts), facts, recipe, body.evaluate)
    job = Job(
        team_id=team,
        name=body.name or f"{model.name} on {dataset.name}",
        labels=body.labels,
        task=facts.task,
        model_id=model.id,
        dataset_id=dataset.id,
        recipe=recipe.model_dump(mode="json"),
        evaluate=body.evaluate.model_dump(mode="json"),
        targets=body.targets.model_dump(mode="json"),
        priority=body.priority,
        deadline_seconds=body.deadline_seconds,
        memory_bytes=forecast.estimate.memory_bytes,
        disk_bytes=forecast.estimate.disk_bytes,
    )
    return job, forecast
