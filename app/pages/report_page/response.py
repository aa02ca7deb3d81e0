"""The page as a response: its policy, its ETag, and its file name if it is downloaded."""

import hashlib
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import object_session

from app.api import ranges
from app.api.openapi import headers
from app.jobs import jobs
from app.pages.report_page.page import About, policy, render
from app.store.models import Event, Job
from compression.schema.report.report import Report

REPORT_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"headers": headers("ETag", "Cache-Control", "Content-Disposition")},
    304: {"description": "Not Modified", "headers": headers("ETag", "Cache-Control")},
}
"""Responses for the OpenAPI schema."""
MOST_POINTS = 2000
"""Limit for all training curves together; later points are left out."""


def report_answer(job: Job, request: Request, *, download: bool = False, samples: bool = True) -> Response:
    """Return a job's report as a page or as a download; 304 if the caller has it. The job must have a report.

    samples: whether it shows rows of the data.
    """
    about = About(job.id, job.name, job.labels, submitted=job.created_at, finished=job.finished_at)
    found = jobs.whole_report(job) if samples else job.report
    page = render(Report.model_validate(found), about, _progress(job))
    etag = f'"{hashlib.sha256(page.encode()).hexdigest()}"'
    headers = {
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": policy(),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    if download:
        headers["Content-Disposition"] = f'attachment; filename="{job.id}-report.html"'
    if ranges.matches_etag(request.headers.getlist("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return HTMLResponse(page, headers=headers)


def _progress(job: Job) -> list[dict[str, Any]]:
    """Return the job's progress events; none if its row is detached from its session."""
    session = object_session(job)
    if session is None:
        return []
    progress = select(Event.data).where(Event.job_id == job.id, Event.type == "progress").order_by(Event.seq).limit(MOST_POINTS)
    return list(session.scalars(progress))
