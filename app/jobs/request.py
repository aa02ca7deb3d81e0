"""The request body that submits a job."""

from typing import Annotated, Any

from pydantic import Field

from app.core.schemas import Body, Id, LabelKey, LabelValue, Name
from compression.schema.recipe.base import MOST_PARTS, MOST_TEACHERS, JobTask
from compression.schema.recipe.recipe import MOST_MINUTES, JobEvaluate, Targets
from compression.schema.worker_device import WantedDevice


class JobModels(Body):
    """The models of a job, by id."""

    base: Id
    student: Annotated[
        Id | None,
        Field(description="Another model that distillation trains instead of the pruned one; the recipe must not prune then."),
    ] = None
    teachers: Annotated[
        list[Id],
        Field(
            max_length=MOST_TEACHERS,
            description="Models tuned on the task, with exactly the data's labels, that teach in addition to the job's own.",
        ),
    ] = []  # noqa: RUF012 (pydantic copies it)


class JobCreate(Body):
    """A job: what to make smaller, on which data, how, and what the result is held against."""

    name: Name | None = None
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = {}  # noqa: RUF012
    task: Annotated[
        JobTask | None,
        Field(description="Null: the dataset's task, or `several` if there are several; other values are rejected."),
    ] = None
    models: JobModels
    datasets: Annotated[
        list[Id],
        Field(
            min_length=1,
            max_length=MOST_PARTS,
            description="With several, each with its own task, each gets a model, and the headline is the mean.",
        ),
    ]
    recipe: Annotated[
        str | dict[str, Any],
        Field(
            description="A preset's name; or a whole recipe, where what is left out has its default; or a preset's name under "
            "`preset` beside the keys to change in it, at any depth."
        ),
    ] = "standard"
    budget_minutes: Annotated[float | None, Field(gt=0, le=MOST_MINUTES)] = None
    """Of a recipe with `auto`: the minutes of the whole job, in place of its auto.budget_minutes. null: as it says."""
    evaluate: JobEvaluate = JobEvaluate()
    targets: Targets = Targets()
    device: Annotated[
        WantedDevice,
        Field(description="Which workers may take it: cuda, those with a GPU; cpu, those that compute on the CPU."),
    ] = "any"
    priority: Annotated[int, Field(ge=-10, le=10, description="Higher goes first, of the team's jobs.")] = 0
    deadline_seconds: Annotated[
        int | None, Field(ge=1, le=10**8, description="From now on; a job that is not done by then fails, waiting or running.")
    ] = None
