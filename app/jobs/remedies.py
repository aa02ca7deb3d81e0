"""Remedies: recipe changes that a job's figures or error suggest, and the retry that applies them.

The engine computes the remedies of a table that misses its targets; each row carries them. This module has those for errors
that a change of the recipe can fix. All other errors need a person, a new file or another machine.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sqlalchemy.orm import Session, object_session

from app.core.errors import InvalidRecipe, InvalidRequest, NoRemedy, WrongState
from app.jobs import jobs, profile_remedies
from app.jobs.preflight import plan
from app.jobs.request import JobCreate, JobModels
from app.store.models import TERMINAL, Job, Model, Worker
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.schema.errors import OutOfMemory, TrainingDiverged, UnsupportedPrecision
from compression.schema.recipe.recipe import MOST_ACCUMULATED, PREPARE_RATE, JobEvaluate, Targets, Train, removed
from compression.schema.recipe.trainings import drop_ineffective
from compression.schema.report.measurements import Remedy

ROOT = "recipe."
LATE = "deadline_exceeded"
GENTLER = 0.3
"""Factor for a learning rate after a training that diverged."""


def list_remedies(job: Job) -> list[Remedy]:
    """Return the recipe changes that a job suggests and did not apply itself, one per key.

    Keys that have been removed since come first. A failed job suggests those that answer its error; another job those of its
    rows, of which a later one knows more.
    """
    gone = list(_removed(job))
    if job.state == "failed":
        return [*gone, *_error_remedies(job)]
    found = {
        remedy.key: remedy
        for metric in job.metrics
        for remedy in map(Remedy.model_validate, (metric.row.get("verdict") or {}).get("remedies", ()))
        if not remedy.applied
    }
    return [*gone, *sorted(found.values(), key=_depth)]


def _removed(job: Job) -> Iterator[Remedy]:
    for key, value in removed(job.recipe).items():
        yield Remedy(key=ROOT + key, now=value, proposed=None, why="It has been removed since: no job does it any more.")


def _depth(remedy: Remedy) -> int:
    return remedy.key.count(".")


def _error_remedies(job: Job) -> Iterator[Remedy]:
    error: dict[str, Any] = job.error or {}
    code = error.get("code")
    if code == OutOfMemory.code:
        yield from _less_memory(job)
    elif code == TrainingDiverged.code:
        key = str(error.get("param") or "")  # recipe.distill.rate: the engine names the training
        rate = _value_at(job.recipe, key)
        if isinstance(rate, float):
            yield Remedy(key=key, now=rate, proposed=rate * GENTLER, why="The loss did not stay finite at this rate.")
        elif key == "recipe.prepare.rate" and rate is None:
            why = "The loss did not stay finite at the automatic rate: this one is explicit and lower."
            yield Remedy(key=key, now=None, proposed=PREPARE_RATE * GENTLER, why=why)
    elif code == UnsupportedPrecision.code:
        key = "recipe.train.precision"
        why = "The worker's device does not support this precision."
        yield Remedy(key=key, now=_value_at(job.recipe, key), proposed="auto", why=why)


def _less_memory(job: Job) -> Iterator[Remedy]:
    """Yield what lets a job that ran out of memory train with less."""
    train = Train.model_validate(job.recipe.get("train") or {})
    if train.batch > 1:
        together = 2 * train.accumulate
        why = f"It ran out of memory; half of the rows take less. No more than {MOST_ACCUMULATED} batches can be added up."
        if together <= MOST_ACCUMULATED:
            why = "It ran out of memory; half of the rows at a time, added up over twice as many batches, train alike."
        yield Remedy(key="recipe.train.batch", now=train.batch, proposed=train.batch // 2, why=why)
        if together <= MOST_ACCUMULATED:
            yield Remedy(key="recipe.train.accumulate", now=train.accumulate, proposed=together, why=why)
    session = object_session(job)
    if session is None:
        return
    trained = [session.get(Model, one) for one in (job.model_id, job.student) if one is not None]
    families = [ARCHITECTURE_SPECS.get((one.facts or {}).get("family", "")) for one in trained if one is not None]
    if train.checkpointing != "on" and all(family is not None and family.recomputes for family in families):
        why = "It ran out of memory; layers computed again in the backward pass keep less, for about a third more time."
        yield Remedy(key="recipe.train.checkpointing", now=train.checkpointing, proposed="on", why=why)
    worker = session.get(Worker, job.worker_id) if job.worker_id is not None else None
    on_card = worker is not None and (worker.facts.get("device") or {}).get("kind") == "cuda"
    if train.optimizer == "adamw" and on_card and train.devices == 1:  # several have their moments in shards
        why = "It ran out of memory on a card; moments in 8 bits take 2 bytes of each parameter in place of 8."
        yield Remedy(key="recipe.train.optimizer", now=train.optimizer, proposed="adamw-8bit", why=why)


def _value_at(recipe: Any, key: str) -> Any:
    """Return the recipe's value at `recipe.a.b`; None if there is none."""
    for part in key.removeprefix(ROOT).split("."):
        recipe = recipe.get(part) if isinstance(recipe, dict) else None
    return recipe


def apply_remedies(recipe: dict[str, Any], remedies: Sequence[Remedy]) -> dict[str, Any]:
    """Return a copy of a recipe with the proposed changes; the caller validates it.

    A stage is changed before its keys, whatever their order here. If the stage is removed, changes of its keys are dropped:
    they would restore it with defaults. What then has no effect is left out: new jobs may not have it. Raises InvalidRecipe for
    a change below a value that has no keys.
    """
    new = copy.deepcopy(recipe)
    gone = [f"{remedy.key}." for remedy in remedies if remedy.proposed is None]
    for remedy in sorted(remedies, key=_depth):
        if any(remedy.key.startswith(stage) for stage in gone):
            continue
        *path, last = remedy.key.removeprefix(ROOT).split(".")
        place = new
        for part in path:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):  # rows come from engines, which may send anything
                raise InvalidRecipe(f"{remedy.key} is not a key of a recipe", param="remedies")
        place[last] = remedy.proposed
    return drop_ineffective(new)


def retry(
    session: Session,
    team: str,
    job_id: str,
    keys: Sequence[str] | Literal["all"],
    key_id: str | None,
    profile: str | None = None,
) -> Job:
    """Submit a job again with these remedies applied; the changed recipe is validated like a new one.

    With `all`, a job that missed its deadline is sent without one. profile: the remedies are those of this profile, by default
    all. Raises WrongState if the job has not ended, NoRemedy if
    there is nothing to apply, InvalidRequest for a remedy that it does not offer, and NotFound, InvalidRecipe and the other
    errors of a new request.
    """
    if not keys and profile is None:
        return jobs.retry(session, team, job_id, key_id)
    old = jobs.get(session, team, job_id)
    if old.state not in TERMINAL:
        raise WrongState(f"{job_id} is {old.state}; only a job that has ended can be retried")
    late = keys == "all" and profile is None and (old.error or {}).get("code") == LATE
    offered = list_remedies(old) if profile is None else profile_remedies.list_changes(session, team, job_id, profile)
    body = JobCreate(
        name=old.name if old.name.strip() else None,  # older jobs could be called by blanks
        labels=old.labels,
        models=JobModels.model_validate({"base": old.model_id, "student": old.student, "teachers": old.teachers}),
        datasets=old.datasets,
        recipe=apply_remedies(old.recipe, _choose(old.id, offered, keys or "all", late=late)),
        evaluate=JobEvaluate.model_validate(old.evaluate),
        targets=Targets.model_validate(old.targets),
        device=old.device,
        priority=old.priority,
        deadline_seconds=None if late else old.deadline_seconds,
    )
    job = plan(session, team, body)[0]
    job.retry_of, job.key_id = old.id, key_id
    return jobs.submit(session, job)


def _choose(job: str, remedies: Sequence[Remedy], keys: Sequence[str] | Literal["all"], *, late: bool) -> list[Remedy]:
    offered = {remedy.key: remedy for remedy in remedies}
    if keys == "all":
        if not offered and not late:
            raise NoRemedy(f"no change of the recipe alone can fix {job}")
        return list(offered.values())
    for key in keys:
        if key not in offered:
            raise InvalidRequest(f"{job} offers no remedy {key!r}; it offers {', '.join(offered) or 'none'}", param="remedies")
    return [offered[key] for key in keys]
