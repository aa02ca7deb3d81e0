"""The page as an answer, whoever may see it: its policy, its tag, and its name where it is to be kept."""

import hashlib
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import object_session

from app.api import ranges
from app.api.openapi import headers
from app.pages.report_page.page import About, policy, render
from app.store.models import Event, Job
from compression.schema.report.report import Report

REPORT_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"headers": headers("ETag", "Cache-Control", "Content-Disposition")},
    304: {"description": "Not Modified", "headers": headers("ETag", "Cache-Control")},
}
"""Of the document: the page, and nothing to who has it already."""
MOST_POINTS = 2000
"""Of all curves together; what came after is left out."""


def report_answer(job: Job, request: Request, *, download: bool = False) -> Response:
    """Answer a job's report as a page, or as a file to keep; 304 to who has it already. The job has a report."""
    about = About(job.id, job.name, job.labels, submitted=job.created_at, finished=job.finished_at)
    page = render(Report.model_validate(job.report), about, _progress(job))
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
    """Return what the job told of its training; a row that belongs to no session any more tells nothing."""
    session = object_session(job)
    if session is None:
        return []
    told = select(Event.data).where(Event.job_id == job.id, Event.type == "progress").order_by(Event.seq).limit(MOST_POINTS)
    return list(session.scalars(told))
