"""Trying a job again with what its figures or its error speak for: which changes those are, and the request that has them.

The engine reckons the remedies of a table that misses its targets, and each row carries them. The errors that a change of the
recipe can mend by itself are here; all others want somebody's eye, a new file or another machine.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app import jobs
from app.errors import NoRemedy, WrongState
from app.models import TERMINAL, Job
from app.preflight import plan
from app.schemas import JobCreate
from compression.errors import OutOfMemory, TrainingDiverged, UnsupportedPrecision
from compression.recipe import Evaluate, Targets
from compression.report import Remedy, Row

LATE = "deadline_exceeded"
GENTLER = 0.3
"""What a learning rate is multiplied by after a training that diverged."""


def _value(recipe: dict[str, Any], key: str) -> Any:
    """Return what lies at a path such as recipe.prune.ratio; None where nothing does."""
    found: Any = recipe
    for name in key.split(".")[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _of_the_table(rows: Sequence[Row]) -> Iterator[Remedy]:
    """A later row knows more: its proposal for a key takes the place of an earlier one's."""
    latest = {
        remedy.key: remedy for row in rows if row.verdict is not None for remedy in row.verdict.remedies if not remedy.applied
    }
    # A whole stage before a key of it.
    yield from sorted(latest.values(), key=lambda remedy: remedy.key.count("."))


def _of_the_error(job: Job) -> Iterator[Remedy]:
    error: dict[str, Any] = job.error or {}
    code, recipe = error.get("code"), job.recipe
    if code == OutOfMemory.code and (batch := _value(recipe, "recipe.train.batch") or 0) > 1:
        together = _value(recipe, "recipe.train.accumulate") or 1
        why = "it ran out of memory; half of the rows at a time, added up over twice as many batches, train alike"
        yield Remedy(key="recipe.train.batch", now=batch, proposed=batch // 2, why=why)
        yield Remedy(key="recipe.train.accumulate", now=together, proposed=2 * together, why=why)
    elif code == TrainingDiverged.code:
        key = str(error.get("param") or "")  # recipe.distill.rate: the engine names the training
        if isinstance(rate := _value(recipe, key), float):
            yield Remedy(key=key, now=rate, proposed=rate * GENTLER, why="the loss did not stay finite at this rate")
    elif code == UnsupportedPrecision.code:
        key = "recipe.train.precision"
        yield Remedy(key=key, now=_value(recipe, key), proposed="auto", why="the worker's device does not compute in it")


def offered(job: Job) -> list[Remedy]:
    """List the changes of the recipe that a job which is over speaks for."""
    if job.state == "failed":
        return list(_of_the_error(job))
    return list(_of_the_table([Row.model_validate(metric.row) for metric in job.metrics]))


def changed(recipe: dict[str, Any], remedies: Sequence[Remedy]) -> dict[str, Any]:
    """Return a copy of a recipe with the remedies' proposals in it; the rules of recipes are checked by who takes it."""
    found: dict[str, Any] = {name: dict(value) if isinstance(value, dict) else value for name, value in recipe.items()}
    for remedy in remedies:
        _, *parents, last = remedy.key.split(".")
        inner = found
        for parent in parents:
            inner[parent] = dict(inner.get(parent) or {})
            inner = inner[parent]
        inner[last] = remedy.proposed
    return found


def retry(session: Session, team: str, job_id: str) -> Job:
    """Submit a job again with its remedies applied, checked like any new one.

    A job that was late is sent again without its deadline. Raises WrongState while the old one is not over, NoRemedy where
    there is nothing to apply, and what `plan` raises.
    """
    old = jobs.get(session, team, job_id)
    if old.state not in TERMINAL:
        raise WrongState(f"{job_id} is {old.state}; only a job that is over can be tried again")
    late = (old.error or {}).get("code") == LATE
    remedies = offered(old)
    if not remedies and not late:
        raise NoRemedy(f"nothing in {job_id} can be mended by a change of its recipe alone")
    body = JobCreate(
        name=old.name,
        labels=old.labels,
        models={"base": old.model_id, "student": old.student, "teachers": old.teachers},
        datasets=old.datasets,
        recipe=changed(old.recipe, remedies),
        evaluate=Evaluate.model_validate(old.evaluate),
        targets=Targets.model_validate(old.targets),
        priority=old.priority,
        deadline_seconds=None if late else old.deadline_seconds,
    )
    job, _ = plan(session, team, body)
    job.retry_of = old.id
    return jobs.submit(session, job)
