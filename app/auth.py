"""API keys: `lathe_<id>_<secret>`. Only the secret's SHA-256 is kept, which is enough for 256 random bits.

A browser that was signed in with a key sends a cookie instead (sessions.py): pages use the same paths as scripts do.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app import sessions
from app.clock import now
from app.db import reading
from app.errors import NotFound, ReadOnlyKey, Unauthorized
from app.ids import ALPHABET
from app.models import READ, WRITE, ApiKey, SignIn, Team

DEFAULT_TEAM = "default"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_FORM = re.compile(r"lathe_([0-9a-z]{10})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    team: str
    key: str
    scope: str = WRITE
    cookie: str | None = None
    """What is kept of a browser's cookie; None of who sent a key."""


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(session: Session, team_id: str, name: str, scope: str = WRITE) -> tuple[ApiKey, str]:
    """Make a key; return its row and the text that is shown this once."""
    key_id = "".join(secrets.choice(ALPHABET) for _ in range(10))
    secret = secrets.token_urlsafe(32)
    row = ApiKey(id=key_id, team_id=team_id, name=name, secret_sha256=_hash(secret), scope=scope)
    session.add(row)
    session.flush()
    return row, f"lathe_{key_id}_{secret}"


def first_key(session: Session) -> str | None:
    """At the very first start make the default team and its key; None where there is a key already."""
    if session.scalar(select(ApiKey.id).limit(1)) is not None:
        return None
    team = session.scalar(select(Team).where(Team.name == DEFAULT_TEAM))
    if team is None:
        team = Team(name=DEFAULT_TEAM)
        session.add(team)
        session.flush()
    return create_key(session, team.id, "first")[1]


def list_keys(session: Session, team_id: str) -> list[ApiKey]:
    """Return the team's keys that are in force, oldest first."""
    query = select(ApiKey).where(ApiKey.team_id == team_id, ApiKey.revoked_at.is_(None)).order_by(ApiKey.created_at)
    return list(session.scalars(query))


def revoke_key(session: Session, team_id: str, key_id: str) -> None:
    """End a key and its sessions at once. Raises NotFound."""
    done = session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.team_id == team_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now())
        .returning(ApiKey.id)
    )
    if done.scalar() is None:
        raise NotFound(f"no key {key_id}")
    session.execute(delete(SignIn).where(SignIn.key_id == key_id))


def authenticate(session: Session, token: str) -> Caller | None:
    """Say whose key this is; None where it is nobody's."""
    parts = _FORM.fullmatch(token)
    row = session.get(ApiKey, parts[1]) if parts else None
    # The comparison takes as long for an unknown key as for a wrong secret.
    expected = row.secret_sha256 if row else "0" * 64
    matches = hmac.compare_digest(expected, _hash(parts[2] if parts else ""))
    return Caller(row.team_id, row.id, row.scope) if row and matches and row.revoked_at is None else None


def in_force(session: Session, caller: Caller) -> bool:
    """Say whether the key, or the sign-in, that let somebody in still does: a stream may be open for hours."""
    query = select(ApiKey.id).where(ApiKey.id == caller.key, ApiKey.revoked_at.is_(None))
    if caller.cookie is not None:
        on = (SignIn.key_id == ApiKey.id) & (SignIn.expires_at > now())
        query = query.join(SignIn, on).where(SignIn.token_sha256 == caller.cookie)
    return session.scalar(query) is not None


def get_caller(request: Request) -> Caller:
    """Read the Authorization header, or else a browser's cookie. Its session ends here, before any long work of the handler.

    Raises Unauthorized; CsrfFailed for a change by cookie that lacks its token; ReadOnlyKey for any change by such a key.
    """
    changes = request.method not in SAFE_METHODS
    header, cookie = request.headers.get("authorization"), sessions.held(request)
    if header is None and cookie:
        with reading() as session:
            visitor = sessions.visitor(session, cookie)
        if visitor is None:
            raise Unauthorized("the session is over", remedy="Sign in again.")
        if changes:
            sessions.check_csrf(visitor, request.headers.get(sessions.CSRF_HEADER))
        caller = Caller(visitor.team, visitor.key, visitor.scope, sessions.hashed(cookie))
    else:
        caller = _bearer(header or "")
    if changes and caller.scope == READ:
        raise ReadOnlyKey(f"key {caller.key} is for reading only")
    return caller


def _bearer(header: str) -> Caller:
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthorized("the request has no bearer token")
    with reading() as session:
        caller = authenticate(session, token.strip())
    if caller is None:
        raise Unauthorized("the key is unknown or revoked")
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
