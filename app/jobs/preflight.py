"""The preflight: checks a job's request and estimates its cost from stored facts; it opens no file and starts no process."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.core.errors import InvalidRecipe, InvalidRequest, NotReady, recipe_problem
from app.core.redaction import redact_paths
from app.jobs import forecasts, profiles
from app.jobs.capacity import live_capacities, live_facts, placement_warnings
from app.jobs.request import JobCreate
from app.store import resources
from app.store.models import STUDENT, TEACHER, Dataset, Job, JobDataset, JobModel, Model
from app.store.resources import R
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.multi_dataset import preflight_several
from compression.planning.network_rules import fitted
from compression.planning.preflight import Preflight, preflight
from compression.schema.extras import pip_install
from compression.schema.recipe.augment import AUGMENTED_TASKS
from compression.schema.recipe.presets import PRESETS, merged, preset
from compression.schema.recipe.recipe import DEVICE_SECONDS, Recipe, Targets, check_removed, gated
from compression.schema.recipe.trainings import check_effective
from compression.schema.validation import DataFacts, ModelFacts

LONGEST_NAME = 40
"""Maximum length of a dataset's name within a job."""
LONGEST_JOB_NAME = 200
MOST_RETENTION = 1.5
"""A larger share of the score that is asked for is percent. Stored jobs may have it."""


def resolve_recipe(asked: str | dict[str, Any], tasks: Sequence[str]) -> Recipe:
    """Return the recipe that a request means, valid for all tasks. Raises InvalidRecipe and InvalidSpec with the key.

    The request has a preset's name, a whole recipe (missing keys have defaults), or a preset's name under `preset` with the
    keys to change.
    """
    if isinstance(asked, str):
        return _preset(asked, tasks, "recipe")
    whole: dict[str, Any] = asked
    if "preset" in asked:
        changes = {key: value for key, value in asked.items() if key != "preset"}
        whole = merged(_preset(asked["preset"], tasks, "recipe.preset"), changes)
    try:
        recipe = Recipe.model_validate(whole)
    except ValidationError as error:
        raise recipe_problem(error, "recipe") from error
    check_removed(recipe.model_dump())
    check_effective(recipe)
    return recipe


def within(budget_minutes: float | None, recipe: Recipe) -> Recipe:
    """Return the recipe with a request's budget. Raises InvalidRequest if it does not look for a size."""
    if budget_minutes is None:
        return recipe
    if recipe.auto is None:
        remedy = "Send the recipe auto, or limit training by the recipe's train.max_minutes."
        raise InvalidRequest("only a recipe with auto fits a budget", param="budget_minutes", remedy=remedy)
    return recipe.model_copy(update={"auto": recipe.auto.model_copy(update={"budget_minutes": budget_minutes})})


def _preset(name: object, tasks: Sequence[str], param: str) -> Recipe:
    if not isinstance(name, str) or name not in PRESETS:
        raise InvalidRecipe(f"no preset {name!r}; there are: {', '.join(PRESETS)}", param=param)
    # A preset is the same for all tasks, except those whose answers point into the text: they cannot be augmented.
    return preset(name, next((task for task in tasks if task not in AUGMENTED_TASKS), "text-classification"))


def _asked(body: JobCreate, tasks: Sequence[str]) -> tuple[Recipe, Targets]:
    """Return a request's recipe, within its budget, and its targets with the gate that the recipe needs.

    Raises InvalidRequest and InvalidRecipe as `resolve_recipe` and `within` do.
    """
    recipe = within(body.budget_minutes, resolve_recipe(body.recipe, tasks))
    return recipe, gated(recipe, body.targets)


def _get_ready(session: Session, kind: type[R], team: str, identifier: str, param: str) -> R:
    row = resources.get(session, kind, team, identifier, param=param, hold="share")
    if row.state != resources.READY:
        reasons = redact_paths("; ".join(str(reason.get("cause")) for reason in row.reasons))
        raise NotReady(f"{identifier} is {row.state}" + (f": {reasons}" if reasons else ""), param=param)
    return row


def part_names(names: Sequence[str]) -> list[str]:
    """Name each of several datasets so that files and artifacts can bear the name: its own, with a number if it repeats."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"
        number, called = 1, plain[:LONGEST_NAME].strip("-")
        while called in found:
            number += 1
            called = f"{plain[: LONGEST_NAME - 1 - len(str(number))].strip('-')}-{number}"
        found.append(called)
    return found


def _find_others(session: Session, team: str, body: JobCreate) -> list[tuple[str, Model]]:
    """Return the models that a job names besides its base: (role, model), the student first. Raises as `_get_ready` does."""
    named = [] if body.models.student is None else [(STUDENT, body.models.student, "models.student")]
    for place, identifier in enumerate(body.models.teachers):
        if identifier in body.models.teachers[:place]:
            cause = f"{identifier} is named twice, and would count twice"
            raise InvalidRequest(cause, param=f"models.teachers.{place}", remedy="Name each teacher once.")
        named.append((TEACHER, identifier, f"models.teachers.{place}"))
    return [(role, _get_ready(session, Model, team, identifier, param)) for role, identifier, param in named]


def _check_devices(session: Session, team: str, body: JobCreate) -> list[str]:
    """Return the names of the team's devices.

    Raises InvalidRequest for one in evaluate.devices that is not among them, and for device_seconds without devices. Stored
    jobs may have these.
    """
    if not body.evaluate.devices and body.evaluate.device_seconds != DEVICE_SECONDS:
        remedy = "Name the devices that the job waits for in evaluate.devices, or leave it out."
        raise InvalidRequest("there are no devices to wait for", param="evaluate.device_seconds", remedy=remedy)
    names = profiles.list_device_names(session, team)
    for place, name in enumerate(body.evaluate.devices):
        if name not in names:
            register = f"Register it: lathe device register {shlex.quote(name)}."
            remedy = f"The team has {', '.join(names)}." if names else register
            raise InvalidRequest(f"no device {name!r}", param=f"evaluate.devices.{place}", remedy=remedy)
    return names


def _check_train_devices(session: Session, device: str, wanted: int) -> None:
    """Refuse more devices than any online worker has; if none is online, one may come. Raises InvalidRequest."""
    live = [one for one in live_capacities(session) if one is not None]
    most = max((one.devices for one in live if one.has_device(device, 1)), default=wanted)
    if wanted > most:
        raise InvalidRequest(
            f"{wanted} devices are to train together, and no online worker for this job has more than {most}",
            param="recipe.train.devices",
            remedy=f"Choose at most {most}, or start a worker with as many cards (python -m workers jobs --device cuda:0,1).",
        )


def _search_workers(session: Session, recipe: Recipe) -> tuple[int, int]:
    """Return how many online workers have the packages of the recipe's search, and how many say which they have."""
    search = recipe.prune.search if recipe.prune is not None else None
    told = [facts["searches"] for facts in live_facts(session) if "searches" in facts]
    return sum(search in each for each in told) if search is not None else len(told), len(told)


def _check_search(session: Session, recipe: Recipe) -> None:
    """Refuse a search that no online worker has; if none is online, one may come. Raises InvalidRequest."""
    able, told = _search_workers(session, recipe)
    if told and not able and recipe.prune is not None:
        cause = f"no online worker has the packages of the search {recipe.prune.search}"
        remedy = f"Set prune.search to solver, or ask who runs the workers to add the packages: {pip_install('search')}."
        raise InvalidRequest(cause, param="recipe.prune.search", remedy=remedy)


def _check_workers(session: Session, device: str, recipe: Recipe) -> None:
    """Refuse what no online worker has: so many devices, or the packages of a search. Raises InvalidRequest."""
    _check_train_devices(session, device, recipe.train.devices)
    _check_search(session, recipe)


def _search_warnings(session: Session, recipe: Recipe) -> list[str]:
    """Return a warning if some online workers lack the packages of the recipe's search: jobs are not matched by them."""
    able, told = _search_workers(session, recipe)
    if able == told or recipe.prune is None:
        return []
    return [
        f"search_absent: {told - able} of {told} online workers lack the packages of prune.search {recipe.prune.search}; on "
        f"one of them the job fails as it begins. Add them there ({pip_install('search')}), or set prune.search to solver."
    ]


def plan(session: Session, team: str, body: JobCreate) -> tuple[Job, Preflight]:
    """Check recipe, model, data and how they fit together; return the job's row, not stored yet, and the forecast.

    Raises InvalidRequest, InvalidRecipe, NotFound, NotReady, and the engine's errors (CompressionError).
    """
    model = _get_ready(session, Model, team, body.models.base, "models.base")
    others = _find_others(session, team, body)
    for place, identifier in enumerate(body.datasets):
        if identifier in body.datasets[:place]:
            cause = f"{identifier} is named twice, and would count twice in the mean"
            raise InvalidRequest(cause, param=f"datasets.{place}", remedy="Name each dataset once.")
    datasets = [_get_ready(session, Dataset, team, one, f"datasets.{place}") for place, one in enumerate(body.datasets)]
    facts = [DataFacts.model_validate(dataset.facts) for dataset in datasets]
    task = facts[0].task if len(facts) == 1 else "several"
    if body.task not in (None, task):
        what = f"the dataset is for {task}" if len(facts) == 1 else "there are several datasets"
        raise InvalidRequest(f"{what}, the job for {body.task}", param="task")
    recipe, targets = _asked(body, [one.task for one in facts])
    _check_workers(session, body.device, recipe)
    names = part_names([dataset.name for dataset in datasets])
    about = ModelFacts.model_validate(model.facts)
    recipe = fitted(recipe, ARCHITECTURE_SPECS[about.family], about.shape)
    beside = [(role, ModelFacts.model_validate(other.facts)) for role, other in others]
    student = next((known for role, known in beside if role == STUDENT), None)
    teachers = [known for role, known in beside if role == TEACHER]
    aims: dict[str, Any] = {"targets": targets, "devices": _check_devices(session, team, body)}
    if len(facts) == 1:
        forecast, parts = preflight(about, facts[0], recipe, body.evaluate, student, teachers, **aims), []
    else:
        each = dict(zip(names, facts, strict=True))
        forecast = preflight_several(about, each, recipe, body.evaluate, student, teachers, **aims)
        parts = [
            JobDataset(position=place, dataset_id=dataset.id, name=name)
            for place, (dataset, name) in enumerate(zip(datasets, names, strict=True))
        ]
    estimate = forecasts.corrected(session, forecast.estimate, task, recipe, body.device)
    forecast = forecast.model_copy(update={"estimate": estimate})
    job = Job(
        team_id=team,
        name=body.name or f"{model.name} on {', '.join(dataset.name for dataset in datasets)}"[:LONGEST_JOB_NAME],
        labels=body.labels,
        task=task,
        model_id=model.id,
        dataset_id=datasets[0].id,
        parts=parts,
        others=[JobModel(position=place, model_id=other.id, role=role) for place, (role, other) in enumerate(others)],
        recipe=recipe.model_dump(mode="json"),
        evaluate=body.evaluate.model_dump(mode="json"),
        targets=targets.model_dump(mode="json"),
        priority=body.priority,
        deadline_seconds=body.deadline_seconds,
        device=body.device,
        devices=recipe.train.devices,
        memory_bytes=forecast.estimate.memory_bytes,
        card_bytes=forecast.estimate.card_bytes,
        host_bytes_with_card=forecast.estimate.host_bytes_with_card,
        disk_bytes=forecast.estimate.disk_bytes,
        forecast=forecasts.stored(estimate),
    )
    return job, forecast


def refuse_percent(targets: Targets) -> None:
    """Raise InvalidRequest for a retention in percent. A retry, which cannot change targets, is not asked."""
    if (share := targets.retention) > MOST_RETENTION:
        cause = f"a retention of {share:g} asks for {share:g} times the score"
        raise InvalidRequest(cause, param="targets.retention", remedy="It is a share: for 98 % of the score send 0.98.")


def forecast(session: Session, team: str, body: JobCreate) -> Preflight:
    """Return the forecast of `plan`, with a warning if no online worker could take the job. Raises as `plan` does, and
    InvalidRequest for a retention in percent.
    """
    refuse_percent(body.targets)
    job, found = plan(session, team, body)
    lacking = _search_warnings(session, Recipe.model_validate(job.recipe))
    return found.model_copy(
        update={"warnings": (*found.warnings, *placement_warnings(job, live_capacities(session)), *lacking)}
    )
