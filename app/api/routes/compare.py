"""/v1/compare: finished jobs side by side, as JSON or as CSV."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from app.api import comparison as domain
from app.api.comparison import Comparison
from app.api.dependencies import CallerDep, ReadDep
from app.api.job_list import JobFilter, Labels
from app.api.openapi import CSV
from app.api.paging import PageSize, PageToken
from app.core.public_url import next_page_link
from app.core.schemas import TEXT, Id

router = APIRouter(prefix="/v1/compare", tags=["compare"])


@router.get("", response_model=Comparison, responses={200: {"content": CSV}})
def compare(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: CallerDep,
    job: Annotated[list[Id] | None, Query(max_length=200, description="Only these jobs.")] = None,
    model: Annotated[str | None, Query(description="Only jobs of this base model.")] = None,
    dataset: Annotated[str | None, Query(description="Only jobs with this dataset.")] = None,
    label: Labels = None,
    search: Annotated[str | None, Query(max_length=200, pattern=TEXT, description="Part of name, id or owner.")] = None,
    format: Annotated[Literal["json", "csv"], Query(description="csv: a line a job.")] = "json",  # noqa: A002 (the parameter's name)
    page_size: PageSize = 200,
    page_token: PageToken = None,
) -> Comparison | Response:
    """Compare finished jobs, newest first: what each started with and shipped, the Pareto-best, and how requests differ."""
    found = domain.compare(
        session,
        caller.team,
        jobs=job or (),
        base=model,
        dataset=dataset,
        wanted=JobFilter(label=label, search=search),
        size=page_size,
        token=page_token,
    )
    link = {}
    if found.next_page_token:
        link = {"Link": next_page_link(request, found.next_page_token)}
    if format == "csv":
        named = {"Content-Disposition": 'attachment; filename="lathe-compare.csv"'}
        return Response(domain.as_csv(found), media_type="text/csv; charset=utf-8", headers={**named, **link})
    response.headers.update(link)
    return found
