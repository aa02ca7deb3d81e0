"""The arguments of the endpoints: names, fields of a job, and conditions of lists."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from pydantic import BaseModel

from client.types import Dataset, Model
from compression.schema.recipe.recipe import Recipe

Kind = Literal["models", "datasets"]
Uploaded = Model | Dataset
Scope = Literal["admin", "write", "read", "device"]
Remedies = Literal["all"] | Sequence[str]
"""Keys of a job's remedies, or all of them."""
STATES = ("queued", "running", "succeeded", "failed", "cancelled")


class JobFields(TypedDict, total=False):
    """The fields of a job. `model` and `data` are ids, or the objects that uploads returned."""

    model: str | Model
    data: str | Dataset | Sequence[str | Dataset]
    student: str | Model | None
    teachers: Sequence[str | Model]
    recipe: str | Mapping[str, Any] | Recipe
    name: str | None
    labels: Mapping[str, str]
    targets: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    budget_minutes: float | None
    """Of the recipe auto: minutes of the whole job."""
    device: str
    priority: int
    deadline_seconds: int | None


class JobFilter(TypedDict, total=False):
    """Conditions of a list of jobs; all that are given must hold."""

    state: str | Sequence[str] | None
    """Any of these."""
    label: str | Sequence[str] | None
    """`key:value`, all of these."""
    model: str | None
    search: str | None
    """Part of the name, the id or the owner."""


class AuditFilter(TypedDict, total=False):
    """Conditions of the audit log; all that are given must hold."""

    key: str | None
    """Id of a key."""
    action: str | None
    """`jobs.cancel`, or a noun: `jobs`."""
    object: str | None
    """Id of what was changed or made."""
    outcome: str | None
    """`ok`, or the code of a problem."""


class ProfileFields(TypedDict, total=False):
    """What to measure; what is left out is the service's default."""

    batch: int | None
    length: int | None
    """Tokens of a row of text."""
    resolution: int | None
    """Side of a square image."""
    seconds: float | None
    threads: int | None


class Question(TypedDict, total=False):
    """The texts of one row, in the task's fields, or its image's file in base64, or the number of a row of the data."""

    text: str | None
    text_pair: str | None
    tokens: Sequence[str] | None
    question: str | None
    context: str | None
    image: str | None
    row: int | None
    split: str
    part: str


class TargetFields(TypedDict, total=False):
    """Targets for the cut of a finished job, as `TargetQuestion` describes them; what is left out sets no limit."""

    target_params: float | None
    target_flops: float | None
    target_bytes: float | None
    target_latency: Mapping[str, float] | None
    """{"milliseconds": 4} or {"speed_up": 2}."""
    device_table: str | None
    part: str


def _id(given: str | Model | Dataset) -> str:
    return given if isinstance(given, str) else given.id


def job_body(fields: JobFields) -> dict[str, Any]:
    """Return a job as the service takes it; what is left out is the service's default."""
    given: dict[str, Any] = dict(fields)
    models: dict[str, Any] = {"base": _id(given.pop("model"))}
    if (student := given.pop("student", None)) is not None:
        models["student"] = _id(student)
    if teachers := given.pop("teachers", ()):
        models["teachers"] = [_id(teacher) for teacher in teachers]
    data = given.pop("data")
    datasets = [_id(data)] if isinstance(data, str | Dataset) else [_id(one) for one in data]
    if isinstance(recipe := given.get("recipe"), BaseModel):
        given["recipe"] = recipe.model_dump(mode="json")
    return {**given, "models": models, "datasets": datasets}
