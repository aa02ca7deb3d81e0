"""The pages of keys, links and teams and, for admins, of the audit log."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from app.accounts import audit, keys, shares, teams
from app.accounts.auth import Caller, Requires
from app.accounts.sessions import Visitor
from app.api.dependencies import ReadDep
from app.api.paging import PageToken
from app.core.schemas import TEXT
from app.pages.dashboard.views import PageRoute, VisitorDep, by_htmx, render
from app.store.models import ADMIN, WRITE

router = APIRouter(include_in_schema=False, route_class=PageRoute)
MOST = 200
ROWS = 50
SCOPES = {
    "read": "reads everything of the team",
    "write": "also submits and changes, except keys",
    "admin": "also manages keys and reads the audit log",
    "device": "reads artifacts only, for measuring machines",
}
FOR_ADMINS = Requires(ADMIN)
Part = Annotated[str, Query(max_length=200, pattern=TEXT)]


def facts(session: Session, visitor: Visitor, token: str | None) -> dict[str, Any]:
    """Return what the page shows, as /v1/keys, /v1/shares and /v1/teams return it."""
    found, following = keys.list_keys(session, visitor.team, MOST, token)
    links = shares.list_links(session, visitor.team, MOST, None)[0]
    makers = {key.made_by for key in found} | {link.key_id for link in links}
    runs_it = visitor.operator and visitor.scope == ADMIN
    return {
        "keys": found,
        "names": keys.key_names(session, visitor.team, {one for one in makers if one}),
        "scopes": SCOPES,
        "default_scope": WRITE,
        "first": "/keys" if token else None,
        "following": f"/keys?{urlencode({'page_token': following})}" if following else None,
        "links": links,
        "teams": teams.list_teams(session, MOST, None, None if runs_it else visitor.team)[0],
        "runs_it": runs_it,
        "most": MOST,
    }


@router.get("/keys")
def keys_page(request: Request, session: ReadDep, visitor: VisitorDep, page_token: PageToken = None) -> Response:
    """Show keys, links and teams; to the page itself, the lists alone."""
    template = "keys_now.html" if by_htmx(request) else "keys.html"
    return render(request, template, visitor, here="keys", **facts(session, visitor, page_token))


@router.get("/audit")
def audit_page(
    request: Request,
    session: ReadDep,
    visitor: VisitorDep,
    key: Part = "",
    action: Part = "",
    object: Part = "",  # noqa: A002 (the parameter's name)
    outcome: Part = "",
    page_token: PageToken = None,
) -> Response:
    """Show changes and refused requests of the team's keys."""
    FOR_ADMINS.check(request, Caller(visitor.team, visitor.key, visitor.scope, operator=visitor.operator))
    wanted = {"key": key.strip(), "action": action.strip(), "object": object.strip(), "outcome": outcome.strip()}
    asked = {name: value for name, value in wanted.items() if value}
    rows, following = audit.list_entries(session, visitor.team, ROWS, page_token, audit.AuditFilter(**wanted))
    return render(
        request,
        "audit.html",
        visitor,
        here="audit",
        rows=rows,
        wanted=wanted,
        narrowed=bool(asked),
        names=keys.key_names(session, visitor.team, {row.key_id for row in rows}),
        table=f"/v1/audit?{urlencode({**asked, 'format': 'csv', 'page_size': MOST})}",
        most=MOST,
        first=f"/audit?{urlencode(asked)}" if page_token else None,
        following=f"/audit?{urlencode({**asked, 'page_token': following})}" if following else None,
    )
