"""A report as a page: /v1/jobs/{id}/report.html for the team, /share/{token} for people with a link."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from app.accounts import shares
from app.api.dependencies import CallerDep, ReadDep
from app.api.openapi import problems
from app.core.errors import ReportNotReady
from app.jobs import jobs
from app.pages.dashboard.views import PageRoute
from app.pages.report_page.response import REPORT_PAGE, report_answer

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
shared = APIRouter(tags=["share"], route_class=PageRoute)


@router.get("/{job_id}/report.html", response_class=HTMLResponse, responses={**REPORT_PAGE, **problems(ReportNotReady)})
def report_page(
    job_id: str,
    request: Request,
    session: ReadDep,
    caller: CallerDep,
    download: Annotated[bool, Query(description="As a file to keep, not as a page to look at.")] = False,
) -> Response:
    """The report as one file for people: pictures and tables, no script, nothing fetched from anywhere."""
    job = jobs.get(session, caller.team, job_id)
    if job.report is None:
        raise ReportNotReady(f"{job_id} is {job.state}")
    return report_answer(job, request, download=download)


@shared.get("/share/{token}", response_class=HTMLResponse, responses=REPORT_PAGE)
def show(token: Annotated[str, Path(max_length=100)], request: Request, session: ReadDep) -> Response:
    """The report that a link shows, as one page without rows of the data. Nobody signs in for it, and it leads nowhere else."""
    answer = report_answer(shares.find_shared_job(session, token), request, samples=False)
    answer.headers.update(shares.LINK_HEADERS)
    return answer
