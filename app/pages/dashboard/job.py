"""The page of one job: what failed and what to do, how it goes, what it brought, and all that belongs to it."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.dependencies import ReadDep
from app.api.job_list import show_jobs
from app.api.schemas import ArtifactOut, JobOut, artifact_out
from app.core.public_url import public_origin
from app.jobs import jobs
from app.pages.dashboard import formatting
from app.pages.dashboard.views import PageRoute, VisitorDep, by_htmx, render
from app.store.models import TERMINAL, Artifact, Dataset, Job, Model
from compression.schema.report.averages import judged_each
from compression.schema.report.lm_eval_table import compare_lm_eval
from compression.schema.report.measurements import STAGES, Latency, Row, Score
from compression.schema.report.measurements import shown as score_text
from compression.schema.report.report import Report

router = APIRouter(include_in_schema=False, route_class=PageRoute)
KEYS = {"quantized": "quantize", "pruned": "prune", "distilled": "distill"}
MOST_LAYERS = 24
"""Layers whose range the page shows, the worst first; the report has all."""

JUDGED = {"causal-lm": "perplexity, lower is better"}
"""What a task is judged by before a row tells it, where less is better."""


@dataclass(frozen=True)
class Step:
    """A place on the timeline. `is_` is done, now, next, skipped or stopped."""

    name: str
    title: str
    is_: str
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One stage of a picture: its share of the widest bar, and what is written beside it."""

    stage: str
    share: float
    text: str


@dataclass(frozen=True)
class Picture:
    """Bars of one figure, a bar a stage."""

    title: str
    bars: tuple[Bar, ...]
    summary: str


def planned(job: JobOut) -> list[str]:
    """Name the rows that the job will have."""
    return [stage for stage in STAGES if stage == "baseline" or job.recipe.get(KEYS[stage], True) is not None]


def timeline(job: JobOut, rows: list[Row]) -> list[Step]:
    """Say of each stage whether it is done, and how long it took."""
    done = {row.stage: row for row in rows}
    first = job.started_at - job.created_at if job.started_at else None
    waited = "now" if job.state == "queued" else "done" if job.started_at else "stopped"
    steps = [Step("queued", "Queue", waited, first.total_seconds() if first else None)]
    wanted = planned(job)
    current = next((stage for stage in wanted if stage not in done), None)
    for stage in STAGES:
        if stage not in wanted:
            steps.append(Step(stage, formatting.title(stage), "skipped", note="not in the recipe"))
        elif stage in done:
            steps.append(Step(stage, formatting.title(stage), "done", done[stage].seconds))
        elif stage == current and job.state == "running":
            steps.append(Step(stage, formatting.title(stage), "now"))
        elif stage == current and job.state in ("failed", "cancelled") and job.started_at:
            steps.append(Step(stage, formatting.title(stage), "stopped", note=job.state))
        else:
            steps.append(Step(stage, formatting.title(stage), "next"))
    ends = {"succeeded": "done", "failed": "stopped", "cancelled": "stopped"}
    title = formatting.title(job.state) if job.state in ends else "Done"
    whole = job.finished_at - job.started_at if job.finished_at and job.started_at else None
    return [*steps, Step("end", title, ends.get(job.state, "next"), whole.total_seconds() if whole else None)]


def pictures(rows: list[Row]) -> list[Picture]:
    """Draw parameters, bytes, latency and score of each stage against the widest."""
    if len(rows) < 2:
        return []
    timed = [(row.stage, row.latency) for row in rows if isinstance(row.latency, Latency)]
    takes = "Latency, one token more" if any(latency.generation for _, latency in timed) else "Latency"
    found = [
        _picture("Parameters", [(row.stage, row.parameters.total, formatting.count(row.parameters.total)) for row in rows]),
        _picture("Size", [(row.stage, row.size.bytes, formatting.size(row.size.bytes)) for row in rows]),
        _picture(takes, [(stage, latency.median_ms, formatting.milliseconds(latency.median_ms)) for stage, latency in timed]),
        _picture(
            _judged_metric(rows),
            [
                (row.stage, score.value, score_text(score.metric, score.value))
                for row in rows
                if isinstance(score := row.judged_score, Score)
            ],
        ),
    ]
    return [picture for picture in found if picture.bars]


def sizes(report: Report) -> str:
    """Hold the result's size against all that people mean by the size before: the file that was sent, 16 bit, float32."""
    found, sent = report.ratios, report.uploaded
    named = (
        (found.size_reduction_from_file, f"the file sent ({formatting.size(sent.bytes)} {sent.dtype})") if sent else (None, ""),
        (found.size_reduction_from_16_bit, "16 bit"),
        (found.size_reduction_from_float32, "float32"),
    )
    return ", ".join(f"{formatting.percent(value)} against {what}" for value, what in named if value is not None)


def _metric(rows: list[Row]) -> str:
    """Name the metric, for pictures that are of no one split too."""
    score = next((row.score for row in rows if isinstance(row.score, Score)), None)
    if score is None:
        return "Score"
    return formatting.title(score.metric) + (", lower is better" if score.lower_is_better else "")


def _judged_metric(rows: list[Row]) -> str:
    """Name the metric of the scores that choices read, and their split."""
    return _metric(rows) + (" on validation" if all(row.validation is not None for row in rows) else "")


def _picture(title: str, figures: list[tuple[str, float, str]]) -> Picture:
    widest = max((abs(value) for _, value, _ in figures), default=0.0) or 1.0
    bars = tuple(Bar(stage, max(0.0, value) / widest, text) for stage, value, text in figures)
    return Picture(title, bars, f"{title}: " + ", ".join(f"{formatting.title(bar.stage)} {bar.text}" for bar in bars))


@dataclass(frozen=True)
class Cut:
    """What pruning took of one axis; shares where they are known."""

    axis: str
    before: int
    after: int
    asked: float | None
    taken: float | None


def cuts(report: Report | None) -> list[Cut]:
    """Say what was cut, of one dataset or of each of several."""
    if report is None:
        return []
    found = [("", report.pruning or {}), *((f"{part.name}: ", part.pruning or {}) for part in report.parts)]
    return [
        Cut(prefix + axis, facts["before"], facts["after"], facts.get("asked"), facts.get("taken"))
        for prefix, axes in found
        for axis, facts in axes.items()
        if isinstance(facts, dict) and "before" in facts and "after" in facts
    ]


def request_of(job: JobOut) -> dict[str, Any]:
    """Return what would have to be posted to /v1/jobs to get this job again."""
    models: dict[str, Any] = {"base": job.models.base}
    if job.models.student:
        models["student"] = job.models.student
    if job.models.teachers:
        models["teachers"] = job.models.teachers
    body = {"name": job.name, "labels": job.labels, "models": models, "datasets": job.datasets, "recipe": job.recipe}
    return {**body, "evaluate": job.evaluate, "targets": job.targets, "priority": job.priority}


def as_curl(job: JobOut, base: str) -> str:
    """Write the request as a shell takes it; the key comes from the environment, never from the page."""
    body = shlex.quote(json.dumps(request_of(job), ensure_ascii=False))
    headers = "-H \"Authorization: Bearer $LATHE_KEY\" -H 'Content-Type: application/json'"
    address = shlex.quote(f"{base}/v1/jobs") if base else '"$LATHE_URL/v1/jobs"'
    return f"curl --fail-with-body {address} \\\n  {headers} \\\n  -d {body}"


def names_of(session: Session, job: Job) -> dict[str, str]:
    """Return what the job's models and datasets are called."""
    models = [job.model_id, *(other.model_id for other in job.others)]
    found = dict(session.execute(select(Model.id, Model.name).where(Model.id.in_(models))).all())
    found |= dict(session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_(job.datasets))).all())
    return found


def artifacts_of(session: Session, job: Job, headline: str | None) -> list[ArtifactOut]:
    """List the downloads, the one to take first."""
    rows = session.scalars(select(Artifact).where(Artifact.job_id == job.id).order_by(Artifact.id))
    return sorted(map(artifact_out, rows), key=lambda artifact: artifact.name != headline)


@router.get("/jobs/{job_id}")
def job(job_id: str, request: Request, session: ReadDep, visitor: VisitorDep, part: str = "") -> Response:
    """Show a job; to a script of the page, how it stands now or what it brought."""
    row = jobs.get(session, visitor.team, job_id)
    out = show_jobs(session, [row])[0]
    rows = [Row.model_validate(metric.row) for metric in row.metrics]
    context: dict[str, Any] = {"here": "jobs", "job": out, "over": out.state in TERMINAL, "steps": timeline(out, rows)}
    if by_htmx(request) and part == "now":
        return render(request, "job_now.html", visitor, **context)
    report = Report.model_validate(row.report) if row.report else None
    headline = report.headline if report else None
    best = next((each for each in rows if report and each.artifact == headline), None)
    ranges = sorted(best.ranges if best else (), key=lambda layer: -layer.ratio)
    context |= {
        "rows": rows,
        "pictures": pictures(rows),
        "sizes": sizes(report) if report else "",
        "beside": compare_lm_eval(rows),
        "metric": _metric(rows),
        "judged": judged_each(rows) if rows else JUDGED.get(out.task, "score"),
        "report": report,
        "best": best,
        "cuts": cuts(report),
        "ranges": ranges[:MOST_LAYERS],
        "more_ranges": max(0, len(ranges) - MOST_LAYERS),
        "artifacts": artifacts_of(session, row, headline),
    }
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
