"""The page that compares finished jobs of one base model: charts, a table, and how selected jobs differ."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from app.api import comparison as domain
from app.api.comparison import Compared
from app.api.dependencies import ReadDep
from app.core.schemas import Id
from app.pages.dashboard.views import PageRoute, VisitorDep, by_htmx, render
from compression.schema.report.measurements import UNITS

router = APIRouter(include_in_schema=False, route_class=PageRoute)
MOST, MOST_PICKED = 200, 12


def keys_of(items: list[Compared]) -> dict[str, str]:
    """Return, for each job, the key of those whose scores are of the same data and metric: the ids of its datasets, joined,
    with the metric where jobs on these have several. A job without a score counts to the first metric.
    """
    metrics: dict[str, dict[str, None]] = {}
    for item in items:
        found = metrics.setdefault("+".join(item.datasets), {})
        if item.metric is not None:
            found[item.metric] = None
    return {
        item.id: f"{ids}:{item.metric or next(iter(metrics[ids]))}" if len(metrics[ids]) > 1 else ids
        for item in items
        for ids in ["+".join(item.datasets)]
    }


def data_of(
    session: Session, team: str, items: list[Compared], keys: dict[str, str], wanted: str | None
) -> tuple[list[Compared], dict[str, str]]:
    """Return the jobs of one key, whose scores are comparable, and the names of all keys. keys: of `keys_of`.

    Without a valid key, that of the first item is used.
    """
    names = domain.dataset_names(session, team, [one for item in items for one in item.datasets])
    called = {}
    for key in dict.fromkeys(keys[item.id] for item in items):
        ids, _, metric = key.partition(":")
        called[key] = " + ".join(names.get(one, one) for one in ids.split("+")) + (f", {metric}" if metric else "")
    # Two sets may have the same name.
    called = {
        key: f"{name} ({key.partition(':')[0][-6:]})" if list(called.values()).count(name) > 1 else name
        for key, name in called.items()
    }
    taken = wanted if wanted in called else next(iter(called), None)
    return [item for item in items if keys[item.id] == taken], called


def _older(session: Session, team: str, base: str | None, named: list[str], found: domain.Comparison) -> list[Compared]:
    """Return the named jobs that are behind the newest ones, unranked: they were not held against those."""
    left = [one for one in named if one not in {item.id for item in found.items}]
    if not left or base is None or found.next_page_token is None:
        return []
    older = domain.compare(session, team, domain.ComparisonFilter(model=base, job=left), MOST).items
    return [one.model_copy(update={"best_by": ()}) for one in older]


@router.get("/compare")
def compare(
    request: Request,
    session: ReadDep,
    visitor: VisitorDep,
    model: Annotated[str | None, Query(max_length=40)] = None,
    data: Annotated[str | None, Query(max_length=800)] = None,
    job: Annotated[list[Id] | None, Query(max_length=MOST)] = None,
) -> Response:
    """Show the finished jobs of a model; to a script of the page, how the picked ones differ."""
    bases = domain.list_base_models(session, visitor.team)
    base = model if any(one[0] == model for one in bases) else bases[0][0] if bases else None
    found = domain.Comparison(items=[], differs=[])
    if base:
        found = domain.compare(session, visitor.team, domain.ComparisonFilter(model=base), MOST)
    named = list(job or ())
    every = [*found.items, *_older(session, visitor.team, base, named, found)]
    # The data of the first job that is named, unless the address has some: a job's own page names it alone.
    keys = keys_of(every)
    first = next((keys[one] for one in named if one in keys), None)
    items, sets = data_of(session, visitor.team, every, keys, data or first)
    picked = [item for item in items if item.id in named][:MOST_PICKED]
    context: dict[str, Any] = {
        "here": "compare",
        "picked": picked,
        "differs": domain.differing_keys(picked),
        "asked_at": domain.format_request_value,
        "csv": f"/v1/compare?{urlencode([('format', 'csv'), *(('job', one.id) for one in picked or items)])}",
    }
    if by_htmx(request):
        return render(request, "compare_picked.html", visitor, **context)
    return render(
        request,
        "compare.html",
        visitor,
        **context,
        bases=bases,
        base=base,
        sets=sets,
        data=keys[items[0].id] if items else None,
        items=items,
        more=found.next_page_token is not None,
        metric=next((item.metric for item in items if item.metric is not None), None),
        units=UNITS,
    )
