"""The page as an answer, whoever may see it: its policy, its tag, and its name where it is to be kept."""

import hashlib

from fastapi import Request
from fastapi.responses import HTMLResponse, Response

from app.models import Job
from app.report_page.page import About, policy, render
from compression.report import Report


def report_answer(job: Job, request: Request, *, download: bool = False) -> Response:
    """Answer a job's report as a page, or as a file to keep; 304 to who has it already. The job has a report."""
    page = render(
        Report.model_validate(job.report),
        About(job.id, job.name, job.labels, submitted=job.created_at, finished=job.finished_at),
    )
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
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(page, headers=headers)
