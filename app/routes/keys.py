"""/v1/keys: the team's API keys."""

from fastapi import APIRouter

from app import auth
from app.deps import CallerDep, ReadDep, SessionDep
from app.schemas import KeyCreate, KeyOut, Page

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201, response_model=KeyOut)
def create(body: KeyCreate, session: SessionDep, caller: CallerDep) -> KeyOut:
    """Make a key. It is shown in this answer and never again, so this POST takes no Idempotency-Key: no replay is stored."""
    row, text = auth.create_key(session, caller.team, body.name, body.scope)
    session.refresh(row)
    return KeyOut(id=row.id, name=row.name, scope=row.scope, created_at=row.created_at, key=text)


@router.get("", response_model=Page)
def list_(session: ReadDep, caller: CallerDep) -> Page:
    """List the team's keys, without their secrets."""
    rows = auth.list_keys(session, caller.team)
    return Page(items=[KeyOut(id=row.id, name=row.name, scope=row.scope, created_at=row.created_at) for row in rows])


@router.delete("/{key_id}", status_code=204)
def revoke(key_id: str, session: SessionDep, caller: CallerDep) -> None:
    """Revoke a key at once."""
    auth.revoke_key(session, caller.team, key_id)
