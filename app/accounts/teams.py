"""Teams: owners of models, datasets, jobs and keys. Admins of the operating team create, rename and close other teams."""

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts import keys
from app.core.errors import NameTaken, NotFound, OwnTeam
from app.store.clock import now
from app.store.keyset import newest_page
from app.store.models import ADMIN, ApiKey, SignIn, Team


def create(session: Session, name: str, made_by: str) -> tuple[Team, str]:
    """Create a team and its first key, an admin key that is shown only this once. Raises NameTaken."""
    team = Team(name=name)
    session.add(team)
    _flush(session, name)
    session.refresh(team)
    return team, keys.create_key(session, team.id, "first", ADMIN, made_by=made_by)[1]


def _flush(session: Session, name: str) -> None:
    try:
        session.flush()
    except IntegrityError as error:
        raise NameTaken(f"there is a team {name!r}", param="name") from error


def list_teams(session: Session, size: int, token: str | None, only: str | None) -> tuple[list[Team], str | None]:
    """Return a page of all teams, newest first, or of the `only` one; and the next page's token."""
    query = select(Team) if only is None else select(Team).where(Team.id == only)
    return newest_page(session, query, Team.id, size, token)


def get(session: Session, team_id: str) -> Team:
    """Return a team. Raises NotFound."""
    found = session.get(Team, team_id)
    if found is None:
        raise NotFound(f"no team {team_id}")
    return found


def rename(session: Session, team_id: str, name: str) -> Team:
    """Rename a team. Raises NotFound, NameTaken."""
    team = get(session, team_id)
    team.name = name
    _flush(session, name)
    return team


def close(session: Session, team_id: str, own: str) -> None:
    """End all keys of a team, with their sessions and links; its data stays. Raises NotFound, OwnTeam."""
    team = get(session, team_id)
    if team.id == own:
        raise OwnTeam(f"{team_id} is the caller's own team")
    session.execute(update(ApiKey).where(ApiKey.team_id == team.id, keys.is_active()).values(revoked_at=now()))
    session.execute(delete(SignIn).where(SignIn.key_id.in_(select(ApiKey.id).where(ApiKey.team_id == team.id))))
