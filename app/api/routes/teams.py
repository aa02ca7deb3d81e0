"""/v1/teams: the teams of the service. Admins of the operating team see and change all; all others see their own."""

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from app.accounts import audit, teams
from app.api.dependencies import CallerDep, OperatorDep, ReadDep, SessionDep
from app.api.openapi import problems
from app.api.paging import PageSize, PageToken, answer_page
from app.core.errors import NameTaken, NotFound, OwnTeam
from app.core.schemas import TEXT, Body, Out, Page
from app.store.models import ADMIN, Team

router = APIRouter(prefix="/v1/teams", tags=["teams"])


class TeamBody(Body):
    """The editable fields of a team."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=TEXT)]


class TeamOut(Out):
    """A team; `key`, its first admin key, is present once, in the answer that created it."""

    id: str
    name: str
    created_at: dt.datetime
    operator: Annotated[bool, Field(description="Whether its admins operate the service.")]
    mine: bool
    key: str | None = None


def _out(row: Team, own: str, key: str | None = None) -> TeamOut:
    return TeamOut(id=row.id, name=row.name, created_at=row.created_at, operator=row.operator, mine=row.id == own, key=key)


def _runs_it(caller: CallerDep) -> bool:
    return caller.operator and caller.scope == ADMIN


@router.post("", status_code=201, response_model=TeamOut, responses=problems(NameTaken))
def create(body: TeamBody, request: Request, session: SessionDep, caller: OperatorDep) -> TeamOut:
    """Create a team and its first key, of scope `admin`, which is shown in this answer and never again (no Idempotency-Key)."""
    team, key = teams.create(session, body.name, caller.key)
    audit.set_object(request, team.id)
    return _out(team, caller.team, key)


@router.get("", response_model=Page[TeamOut])
def list_(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: CallerDep,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> Page[TeamOut]:
    """List teams, newest first: all of them for an admin of the operating team, else the caller's own."""
    rows, token = teams.list_teams(session, page_size, page_token, None if _runs_it(caller) else caller.team)
    return answer_page([_out(row, caller.team) for row in rows], token, request, response)


@router.get("/{team_id}", response_model=TeamOut)
def show(team_id: str, session: ReadDep, caller: CallerDep) -> TeamOut:
    """Show a team."""
    if team_id != caller.team and not _runs_it(caller):
        raise NotFound(f"no team {team_id}")
    return _out(teams.get(session, team_id), caller.team)


@router.patch("/{team_id}", response_model=TeamOut, responses=problems(NameTaken))
def rename(team_id: str, body: TeamBody, session: SessionDep, caller: OperatorDep) -> TeamOut:
    """Rename a team."""
    return _out(teams.rename(session, team_id, body.name), caller.team)


@router.delete("/{team_id}", status_code=204, response_class=Response, responses=problems(OwnTeam))
def close(team_id: str, session: SessionDep, caller: OperatorDep) -> None:
    """Close a team: all its keys, sessions and links end at once.

    Its data stays; `python -m app.bootstrap --team NAME` on the server opens it again.
    """
    teams.close(session, team_id, caller.team)
