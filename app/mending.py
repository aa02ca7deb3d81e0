"""What a job may be tried again with: the remedies that its rows offer, and those that follow from how it failed."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app import jobs
from app.errors import InvalidRequest, WrongState
from app.models import TERMINAL, Job
from app.preflight import plan
from app.schemas import JobCreate, JobModels
from compression.recipe import Evaluate, Targets
from compression.report import Remedy

ROOT = "recipe."


def offers(job: Job) -> list[Remedy]:
    """Return the remedies that the job did not apply itself, one a key, the last word of its rows on each."""
    found = {
        remedy.key: remedy
        for metric in job.metrics
        for remedy in map(Remedy.model_validate, (metric.row.get("verdict") or {}).get("remedies", ()))
        if not remedy.applied
    }
    error = job.error or {}
    if remedy := _after(job, str(error.get("code")), str(error.get("param"))):
        found[remedy.key] = remedy
    return list(found.values())


def _after(job: Job, code: str, param: str) -> Remedy | None:
    """Say which change answers a failure, where one number does."""
    answers: dict[str, tuple[str, Callable[[Any], Any], str]] = {
        "training_diverged": (param, lambda rate: rate / 4, "The loss was not finite at half this rate either."),
        "out_of_memory": (
            "recipe.train.batch",
            lambda batch: batch // 2,
            "Half the rows at once take about half the memory.",
        ),
    }
    if code not in answers:
        return None
    key, change, why = answers[code]
    now = _at(job.recipe, key)
    if isinstance(now, bool) or not isinstance(now, int | float) or not change(now):
        return None
    return Remedy(key=key, now=now, proposed=change(now), why=why)


def _at(recipe: Any, key: str) -> Any:
    """Return what a recipe has at `recipe.a.b`; None where there is nothing."""
    for part in key.removeprefix(ROOT).split("."):
        recipe = recipe.get(part) if isinstance(recipe, dict) else None
    return recipe


def mended(recipe: dict[str, Any], remedies: Sequence[Remedy]) -> dict[str, Any]:
    """Return a recipe with the changes that remedies propose."""
    new = copy.deepcopy(recipe)
    for remedy in remedies:
        *path, last = remedy.key.removeprefix(ROOT).split(".")
        place = new
        for part in path:
            place = place.setdefault(part, {})
        place[last] = remedy.proposed
    return new


def retry(session: Session, team: str, job_id: str, keys: Sequence[str], key_id: str | None) -> Job:
    """Submit a job again, with the remedies of these keys applied; the changed recipe is checked as a new one is.

    Raises WrongState while the job is not over; InvalidRequest for a remedy that it does not offer; NotFound, InvalidRecipe and
    what else speaks against the new request.
    """
    if not keys:
        return jobs.retry(session, team, job_id, key_id)
    old = jobs.get(session, team, job_id)
    if old.state not in TERMINAL:
        raise WrongState(f"{job_id} is {old.state}; only a job that is over can be tried again")
    offered = {remedy.key: remedy for remedy in offers(old)}
    for key in keys:
        if key not in offered:
            known = ", ".join(offered) or "none"
            raise InvalidRequest(f"{job_id} offers no remedy {key!r}; it offers {known}", param="remedies")
    models = {"base": old.model_id, "student": old.student, "teachers": old.teachers}
    body = JobCreate(
        name=old.name,
        labels=old.labels,
        models=JobModels.model_validate(models),
        datasets=old.datasets,
        recipe=mended(old.recipe, [offered[key] for key in keys]),
        evaluate=Evaluate.model_validate(old.evaluate),
        targets=Targets.model_validate(old.targets),
        priority=old.priority,
        deadline_seconds=old.deadline_seconds,
    )
    job = plan(session, team, body)[0]
    job.retry_of, job.key_id = old.id, key_id
    return jobs.submit(session, job)
