"""/v1/keys: the team's API keys. Admins create, rotate and revoke them; a key with scope `write` may revoke itself."""

import datetime as dt
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from app.accounts import audit, keys
from app.api.dependencies import AdminDep, CallerDep, ReadDep, SessionDep, WriterDep
from app.api.openapi import problems
from app.api.paging import PageSize, PageToken, answer_page
from app.core.errors import AlreadyRotated, InsufficientScope
from app.core.schemas import TEXT, Body, Out, Page
from app.store.models import ADMIN, ApiKey

router = APIRouter(prefix="/v1/keys", tags=["keys"])
DAY = 24 * 3600
KeyScope = Literal["admin", "write", "read", "device"]
Lifetime = Annotated[int | None, Field(ge=60, le=3660 * DAY, description="Seconds until it ends; null: never.")]


class KeyCreate(Body):
    """A new API key of the caller's team."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=TEXT)]
    scope: Annotated[
        KeyScope,
        Field(
            description="`read` sees everything of the team and changes nothing; `write` changes all but keys; `admin` makes "
            "and revokes keys, and reads the audit log; `device`, of a machine that only measures, reads artifacts alone. "
            "The key of a registered device (POST /v1/devices) does that device's work, and reads what it measures."
        ),
    ] = "write"
    expires_in: Lifetime = None


class KeyRotate(Body):
    """How a key is replaced."""

    overlap: Annotated[int, Field(ge=0, le=90 * DAY, description="Seconds that the old key still works.")] = DAY
    expires_in: Annotated[Lifetime, Field(description="Null: the new key lasts as long as the old one was to last.")] = None


class KeyOut(Out):
    """An API key; `key` is present once, in the answer that created it."""

    id: str
    name: str
    scope: KeyScope
    created_at: dt.datetime
    expires_at: dt.datetime | None
    last_used_at: Annotated[dt.datetime | None, Field(description="To the minute.")]
    made_by: Annotated[str | None, Field(description="Id of the key that made it; null: it was made at the database.")]
    replaces: Annotated[str | None, Field(description="Id of the key whose rotation made it.")]
    mine: Annotated[bool, Field(description="Whether this request came with it.")]
    key: str | None = None


def _out(row: ApiKey, caller: str, text: str | None = None) -> KeyOut:
    same = ("id", "name", "scope", "created_at", "expires_at", "last_used_at", "made_by", "replaces")
    return KeyOut(**{name: getattr(row, name) for name in same}, mine=row.id == caller, key=text)


@router.post("", status_code=201, response_model=KeyOut)
def create(body: KeyCreate, request: Request, session: SessionDep, caller: AdminDep) -> KeyOut:
    """Create a key. It is shown in this answer and never again, so this POST takes no Idempotency-Key: no replay is stored."""
    row, text = keys.create_key(session, caller.team, body.name, body.scope, expires_in=body.expires_in, made_by=caller.key)
    audit.set_object(request, row.id)
    return _out(row, caller.key, text)


@router.get("", response_model=Page[KeyOut])
def list_(
    request: Request,
    response: Response,
    session: ReadDep,
    caller: CallerDep,
    page_size: PageSize = 200,
    page_token: PageToken = None,
) -> Page[KeyOut]:
    """List the team's active keys, oldest first, without their secrets."""
    rows, token = keys.list_keys(session, caller.team, page_size, page_token)
    return answer_page([_out(row, caller.key) for row in rows], token, request, response)


@router.post("/{key_id}/rotate", status_code=201, response_model=KeyOut, responses=problems(AlreadyRotated))
def rotate(key_id: str, body: KeyRotate, request: Request, session: SessionDep, caller: AdminDep) -> KeyOut:
    """Create a key of the same name and scope; the old one, and links it created, work for `overlap` more seconds.

    The new key is shown in this answer and never again, so this POST takes no Idempotency-Key: no replay is stored.
    """
    row, text = keys.rotate_key(
        session, caller.team, key_id, overlap=body.overlap, expires_in=body.expires_in, made_by=caller.key
    )
    audit.set_object(request, f"{key_id} {row.id}")
    return _out(row, caller.key, text)


@router.delete("/{key_id}", status_code=204, response_class=Response)
def revoke(key_id: str, session: SessionDep, caller: WriterDep) -> None:
    """Revoke a key at once, with its sessions and its share links. Keys other than admins' can only revoke themselves."""
    if caller.scope != ADMIN and key_id != caller.key:
        raise InsufficientScope(f"key {caller.key} has scope `{caller.scope}`; to revoke another key needs `{ADMIN}`")
    keys.revoke_key(session, caller.team, key_id)
