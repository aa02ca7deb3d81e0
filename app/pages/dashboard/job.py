"""The page of one job: its state, its result and downloads, its stages, layers, training, log and request."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api import ranges
from app.api.dependencies import ReadDep, StorageDep
from app.api.job_list import show_jobs
from app.api.profile_items import ProfileItem, profile_items
from app.api.schemas import ArtifactOut, JobOut, artifact_out
from app.core.errors import NotFound
from app.core.public_url import public_origin
from app.jobs import jobs, profiles, targets
from app.pages.dashboard import figures, formatting
from app.pages.dashboard.archive import Entry, zipped
from app.pages.dashboard.views import PageRoute, VisitorDep, by_htmx, render
from app.store.models import TERMINAL, Artifact, Dataset, Job, Model
from compression.schema.report.averages import judged_each
from compression.schema.report.lm_eval_table import compare_lm_eval
from compression.schema.report.measurements import UNITS, Row
from compression.schema.report.report import Report
from compression.schema.report.sample_table import sample_tables
from compression.schema.stages import STAGE_SPECS, STAGES, wanted
from compression.schema.tasks import TASKS

router = APIRouter(include_in_schema=False, route_class=PageRoute)
MOST_LAYERS = 24
"""Layers whose range the page shows, the worst first; the report has all."""
MOST_PROFILES = 100
"""Profiles that the page shows, the newest of the job."""
SECTIONS = {
    "results": "Results",
    "stages": "Stages",
    "layers": "Layers",
    "targets": "Targets",
    "training": "Training",
    "log": "Log",
    "request": "Request",
}
"""The page's sections by id, in order."""

JUDGED = {name: f"{spec.metrics[0]}, lower is better" for name, spec in TASKS.items() if spec.generates}
"""The metric of a task before a row names it, if lower is better."""


@dataclass(frozen=True)
class Step:
    """A step of the timeline. `is_` is done, now, next, skipped or stopped."""

    name: str
    title: str
    is_: str
    seconds: float | None = None
    note: str = ""


def planned(job: JobOut) -> list[str]:
    """Return the stages that get a row."""
    return list(wanted(job.recipe))


def timeline(job: JobOut, rows: list[Row]) -> list[Step]:
    """Return the queue, the stages and the end, each with its state and duration."""
    done = {row.stage: row for row in rows}
    first = job.started_at - job.created_at if job.started_at else None
    waited = "now" if job.state == "queued" else "done" if job.started_at else "stopped"
    steps = [Step("queued", "Queue", waited, first.total_seconds() if first else None)]
    wanted = planned(job)
    current = next((stage for stage in wanted if stage not in done), None)
    for stage in STAGES:
        if stage not in wanted and STAGE_SPECS[stage].point:
            continue  # most jobs make one size
        if stage not in wanted:
            steps.append(Step(stage, formatting.title(stage), "skipped", note="not in the recipe"))
        elif stage in done:
            steps.append(Step(stage, formatting.title(stage), "done", done[stage].seconds))
        elif stage == current and job.state == "running":
            steps.append(Step(stage, formatting.title(stage), "now"))
        elif stage == current and job.state in ("failed", "cancelled") and job.started_at:
            steps.append(Step(stage, formatting.title(stage), "stopped", note=job.state))
        elif job.state == "succeeded":
            steps.append(Step(stage, formatting.title(stage), "skipped", note="not made: see the notes"))
        else:
            steps.append(Step(stage, formatting.title(stage), "next"))
    ends = {"succeeded": "done", "failed": "stopped", "cancelled": "stopped"}
    title = formatting.title(job.state) if job.state in ends else "Done"
    whole = job.finished_at - job.started_at if job.finished_at and job.started_at else None
    return [*steps, Step("end", title, ends.get(job.state, "next"), whole.total_seconds() if whole else None)]


def request_of(job: JobOut) -> dict[str, Any]:
    """Return the body that submits this job again."""
    models: dict[str, Any] = {"base": job.models.base}
    if job.models.student:
        models["student"] = job.models.student
    if job.models.teachers:
        models["teachers"] = job.models.teachers
    body: dict[str, Any] = {
        "name": job.name,
        "labels": job.labels,
        "models": models,
        "datasets": job.datasets,
        "recipe": job.recipe,
    }
    if job.deadline_at is not None:
        body["deadline_seconds"] = round((job.deadline_at - job.created_at).total_seconds())
    return {**body, "evaluate": job.evaluate, "targets": job.targets, "device": job.device, "priority": job.priority}


def as_curl(job: JobOut, base: str) -> str:
    """Return the request as a shell command; the key comes from the environment, never from the page."""
    body = shlex.quote(json.dumps(request_of(job), ensure_ascii=False))
    headers = "-H \"Authorization: Bearer $LATHE_KEY\" -H 'Content-Type: application/json'"
    address = shlex.quote(f"{base}/v1/jobs") if base else '"$LATHE_URL/v1/jobs"'
    return f"curl --fail-with-body {address} \\\n  {headers} \\\n  -d {body}"


def names_of(session: Session, job: Job) -> dict[str, str]:
    """Return the names of the job's models and datasets."""
    models = [job.model_id, *(other.model_id for other in job.others)]
    found = dict(session.execute(select(Model.id, Model.name).where(Model.id.in_(models))).all())
    found |= dict(session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_(job.datasets))).all())
    return found


def artifacts_of(session: Session, job: Job, shipped: Sequence[str]) -> list[ArtifactOut]:
    """List the downloads, those in `shipped` first, in their order."""
    rows = session.scalars(select(Artifact).where(Artifact.job_id == job.id).order_by(Artifact.id))
    places = {name: place for place, name in enumerate(shipped)}
    return sorted(map(artifact_out, rows), key=lambda artifact: places.get(artifact.name, len(places)))


def profiles_of(session: Session, job: Job) -> dict[str, list[ProfileItem]]:
    """Return the newest profiles of each artifact of a job."""
    found: dict[str, list[ProfileItem]] = {}
    for item in profile_items(session, profiles.list_profiles(session, job.team_id, MOST_PROFILES, None, job_id=job.id)[0]):
        found.setdefault(item.artifact, []).append(item)
    return found


def results(session: Session, job: Job, out: JobOut, rows: list[Row]) -> dict[str, Any]:
    """Return what the sections Results, Stages, Layers and Targets show."""
    report = Report.model_validate(jobs.whole_report(job)) if job.report else None
    recommended = list(report.to_run) if report and report.recommended else []
    shipped = [*recommended, report.headline, *report.headlines.values()] if report else []
    best = next((each for each in rows if report and each.artifact == report.headline), None)
    layers = sorted(best.ranges if best else (), key=lambda layer: -layer.ratio)
    artifacts = artifacts_of(session, job, shipped)
    found: dict[str, Any] = {
        "rows": rows,
        "pictures": figures.pictures(rows),
        "beside": compare_lm_eval(rows),
        "units": list(UNITS),
        "solved": targets.solved_parts(session, job) if out.state in TERMINAL else [],
        "metric": figures.metric(rows),
        "judged": judged_each(rows) if rows else JUDGED.get(out.task, "score"),
        "report": report,
        "best": best,
        "outcome": figures.outcome(report) if report else None,
        "samples": sample_tables(report) if report else [],
        "figures": figures.figures(report, rows[0], best) if report and best else [],
        "cuts": figures.cuts(report) if report else [],
        "ranges": layers[:MOST_LAYERS],
        "more_ranges": max(0, len(layers) - MOST_LAYERS),
        "artifacts": artifacts,
        "profiles": profiles_of(session, job),
        "recommended": recommended,
        "gates": {one.name: one.gate for one in report.artifacts if one.gate} if report else {},
        "shipped": [artifact for artifact in artifacts if artifact.name in shipped],
    }
    filled = {
        "results": bool(report or artifacts or out.remedies),
        "stages": bool(rows),
        "targets": bool(found["solved"]),
        "layers": bool(found["cuts"] or found["ranges"] or (report and (report.sensitivity or report.size_searches))),
    }
    return {**found, "sections": [(name, title, filled.get(name, True)) for name, title in SECTIONS.items()]}


@router.get("/jobs/{job_id}")
def job(job_id: str, request: Request, session: ReadDep, visitor: VisitorDep, part: str = "") -> Response:
    """Show a job; to a script of the page, its state (`now`) or its results."""
    row = jobs.get(session, visitor.team, job_id)
    out = show_jobs(session, [row])[0]
    rows = [Row.model_validate(metric.row) for metric in row.metrics]
    context: dict[str, Any] = {"here": "jobs", "job": out, "over": out.state in TERMINAL, "steps": timeline(out, rows)}
    if by_htmx(request) and part == "now":
        return render(request, "job_now.html", visitor, **context)
    context |= results(session, row, out, rows)
    if by_htmx(request) and part == "results":
        return render(request, "job_results.html", visitor, **context)
    return render(
        request,
        "job.html",
        visitor,
        **context,
        names=names_of(session, row),
        curl=as_curl(out, public_origin(request)),
        request_body=request_of(out),
    )


@router.get("/jobs/{job_id}/artifacts/{artifact_id}")
def archive(job_id: str, artifact_id: str, session: ReadDep, visitor: VisitorDep, storage: StorageDep) -> StreamingResponse:
    """Send all files of an artifact as a zip."""
    job = jobs.get(session, visitor.team, job_id)
    found = session.get(Artifact, artifact_id)
    if found is None or found.job_id != job.id:
        raise NotFound(f"no artifact {artifact_id}")
    entries = [Entry(file.path, file.key, file.size) for file in found.files if file.key is not None]
    headers = {"Content-Disposition": ranges.content_disposition(f"{found.name}.zip"), "Cache-Control": "private, no-store"}
    return StreamingResponse(zipped(storage, entries), headers=headers, media_type="application/zip")
