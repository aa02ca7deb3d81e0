"""The remedies of profiles, from what the database has of their jobs."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from app.core.errors import InvalidRequest
from app.jobs import profiles
from app.jobs.predictions import find_dataset
from app.store.models import Artifact, Dataset, Job, Model, Profile
from compression.planning.on_disk import untrained
from compression.planning.profile_remedies import Form, ProfiledCase, profile_remedies
from compression.planning.remedy_case import needed
from compression.schema.artifact_formats import ARTIFACT_FORMATS
from compression.schema.job_spec import Resolved
from compression.schema.profile import ProfileFailure, ProfileRequest
from compression.schema.profile_figures import ProfileFigures
from compression.schema.profile_remedies import ProfileRemedy
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.measurements import Remedy, Row, Score
from compression.schema.stages import BASELINE

Key = tuple[str, str, str]
"""Artifact, device and what was asked for, but for the time."""


def find_remedies(session: Session, rows: Sequence[Profile]) -> dict[str, tuple[ProfileRemedy, ...]]:
    """Return the remedies of the profiles that have ended, by id, in the same few queries for any number of them."""
    ended = [row for row in rows if row.state in profiles.ENDED]
    ids = {row.job_id for row in ended}
    if not ids:
        return {}
    found = {job.id: job for job in session.scalars(select(Job).options(defer(Job.report)).where(Job.id.in_(ids)))}
    forms: dict[str, list[Artifact]] = {}
    for artifact in session.scalars(select(Artifact).where(Artifact.job_id.in_(ids)).order_by(Artifact.id)):
        forms.setdefault(artifact.job_id, []).append(artifact)
    done = select(Profile).where(Profile.job_id.in_(ids), Profile.state == profiles.DONE).order_by(Profile.id)
    measured = {_key(row): ProfileFigures.model_validate(row.figures) for row in session.scalars(done)}
    datasets = {dataset for job in found.values() for dataset in job.datasets}
    named = select(Dataset.id, Dataset.task).where(Dataset.id.in_(datasets))
    tasks: dict[str, Any] = dict(session.execute(named).tuples().all())
    sent = {identifier for job in found.values() for identifier in (job.model_id, job.student) if identifier}
    about = session.execute(select(Model.id, Model.facts).where(Model.id.in_(sent)))
    models: dict[str, Any] = dict(about.tuples().all())
    cases = {}
    for row in ended:
        job, own = found[row.job_id], forms[row.job_id]
        cases[row.id] = replace(_case(row, job, own, measured, tasks), **_about_job(row, job, own, models))
    return {identifier: profile_remedies(case) for identifier, case in cases.items()}


def _key(row: Profile, artifact: str | None = None) -> Key:
    asked = {name: value for name, value in row.request.items() if name != "seconds"}
    return artifact or row.artifact_id, row.device_id, str(sorted(asked.items()))


def _case(
    row: Profile, job: Job, artifacts: Sequence[Artifact], measured: dict[Key, ProfileFigures], tasks: dict[str, Any]
) -> ProfiledCase:
    own = next(artifact for artifact in artifacts if artifact.id == row.artifact_id)
    part, stage = own.facts.get("part"), own.facts["stage"]
    same = [artifact for artifact in artifacts if artifact is not own and artifact.facts.get("part") == part]
    # Its own figures may be of an earlier profile than the newest of its kind.
    figures = ProfileFigures.model_validate(row.figures) if row.figures else None
    whole = next((Row.model_validate(metric.row) for metric in job.metrics if metric.stage == stage), None)
    decided = Resolved.model_validate(job.resolved or {})
    return ProfiledCase(
        form=_form(own, figures),
        others=[_form(artifact, measured.get(_key(row, artifact.id))) for artifact in same],
        request=figures.request if figures else ProfileRequest.model_validate(row.request),
        recipe=Recipe.model_validate(job.recipe).closed(decided.scheme, decided.multiple),
        failure=ProfileFailure.model_validate(row.error) if row.error else None,
        row=whole.parts.get(part, whole) if whole is not None and part else whole,
        task=tasks.get(find_dataset(job, part or "")),
    )


def _about_job(row: Profile, job: Job, artifacts: Sequence[Artifact], models: dict[str, Any]) -> dict[str, Any]:
    """Return what remedies read of a job beside its forms. models: facts by id."""
    own = next(artifact for artifact in artifacts if artifact.id == row.artifact_id)
    model = job.student if job.student and own.facts["stage"] == "distilled" else job.model_id
    first = next((Row.model_validate(metric.row) for metric in job.metrics if metric.stage == BASELINE), None)
    if first is not None and (part := own.facts.get("part")):
        first = first.parts.get(part, first)
    before = first.validation if first is not None else None
    return {
        "family": (models.get(model) or {}).get("family"),
        "needed": needed(before, Targets.model_validate(job.targets)) if isinstance(before, Score) else None,
        "streamed": own.facts.get("trained_as_shipped") is None and untrained(Recipe.model_validate(job.recipe)),
    }


def _form(artifact: Artifact, figures: ProfileFigures | None) -> Form:
    same = {name: artifact.facts[name] for name in ("name", "kind", "stage", "precision")}
    scored = artifact.facts.get("validation")
    score = Score.model_validate(scored) if scored and "value" in scored else None
    known = ARTIFACT_FORMATS.get(same["kind"])
    patterns = known.weights if known is not None and known.weights else ("*",)
    read = sum(file.size for file in artifact.files if any(fnmatch(file.path, each) for each in patterns))
    return Form(id=artifact.id, bytes=read, figures=figures, score=score, **same)


def list_changes(session: Session, team: str, job_id: str, profile_id: str) -> list[Remedy]:
    """Return the changes of the recipe that a profile of a job suggests, one per key. Raises NotFound, InvalidRequest."""
    row = profiles.get(session, team, profile_id)
    if row.job_id != job_id:
        raise InvalidRequest(f"{profile_id} is a profile of {row.job_id}", param="profile")
    changes = [remedy.change for remedy in find_remedies(session, [row]).get(row.id, ()) if remedy.change is not None]
    return list({change.key: change for change in reversed(changes)}.values())[::-1]
