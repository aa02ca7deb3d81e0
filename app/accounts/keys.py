"""API keys: creation, lists, rotation, revocation. Only the secret's SHA-256 is stored, which suffices for 256 random bits."""

import datetime as dt
import hashlib
import secrets

from sqlalchemy import ColumnElement, and_, delete, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from app.core.errors import AlreadyRotated, NotFound
from app.core.ids import ALPHABET
from app.store.clock import now
from app.store.db import writing
from app.store.deferred_writes import INTERVAL_SECONDS, deferred_writes
from app.store.keyset import decode_token, encode_token
from app.store.models import ADMIN, WRITE, ApiKey, SignIn, Team

DEFAULT_TEAM = "default"


def hash_secret(secret: str) -> str:
    """Return the stored hash of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_active() -> ColumnElement[bool]:
    """Return the SQL condition that a key is neither revoked nor expired."""
    return and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now()))


def create_key(
    session: Session,
    team_id: str,
    name: str,
    scope: str = WRITE,
    *,
    expires_in: float | None = None,
    made_by: str | None = None,
    replaces: str | None = None,
    device: str | None = None,
) -> tuple[ApiKey, str]:
    """Create a key; return its row and its text, which is shown only this once."""
    key_id = "".join(secrets.choice(ALPHABET) for _ in range(10))
    secret = secrets.token_urlsafe(32)
    row = ApiKey(id=key_id, team_id=team_id, name=name, secret_sha256=hash_secret(secret), scope=scope)
    row.made_by, row.replaces, row.device_id = made_by, replaces, device
    if expires_in is not None:
        row.expires_at = session.scalars(select(now(expires_in))).one()
    session.add(row)
    session.flush()
    session.refresh(row)
    return row, f"lathe_{key_id}_{secret}"


def ensure_admin_key(session: Session, team_id: str, name: str = "first") -> str | None:
    """Create an admin key for a team that has no active one; None if it has one."""
    session.execute(
        select(Team.id).where(Team.id == team_id).with_for_update()
    )  # if two processes come at once, one creates it
    mine = select(ApiKey.id).where(ApiKey.team_id == team_id, ApiKey.scope == ADMIN, is_active())
    if session.scalar(mine.limit(1)) is not None:
        return None
    return create_key(session, team_id, name, ADMIN)[1]


def ensure_operator_team(session: Session) -> Team:
    """Return the team that operates the service; on the very first start, create it."""
    team = session.scalar(select(Team).where(Team.operator).order_by(Team.created_at, Team.id).limit(1))
    if team is None:
        team = session.scalar(select(Team).where(Team.name == DEFAULT_TEAM)) or Team(name=DEFAULT_TEAM)
        team.operator = True
        session.add(team)
        session.flush()
    return team


def list_keys(session: Session, team_id: str, size: int, token: str | None) -> tuple[list[ApiKey], str | None]:
    """Return a page of the team's active keys, oldest first, and the next page's token."""
    query = select(ApiKey).where(ApiKey.team_id == team_id, is_active())
    if token:
        last = aliased(ApiKey)
        place = select(last.created_at).where(last.id == decode_token(token), last.team_id == team_id).scalar_subquery()
        query = query.where(tuple_(ApiKey.created_at, ApiKey.id) > tuple_(place, decode_token(token)))
    rows = list(session.scalars(query.order_by(ApiKey.created_at, ApiKey.id).limit(size + 1)))
    return rows[:size], encode_token(rows[size - 1].id) if len(rows) > size else None


def key_names(session: Session, team_id: str, ids: set[str]) -> dict[str, str]:
    """Return the names of a team's keys, including ended ones."""
    found = select(ApiKey.id, ApiKey.name).where(ApiKey.id.in_(ids), ApiKey.team_id == team_id)
    return dict(session.execute(found).tuples().all())


def revoke_key(session: Session, team_id: str, key_id: str) -> None:
    """End a key, its sessions and its share links at once. Raises NotFound."""
    ended = update(ApiKey).where(ApiKey.id == key_id, ApiKey.team_id == team_id, is_active()).values(revoked_at=now())
    if session.scalar(ended.returning(ApiKey.id)) is None:
        raise NotFound(f"no key {key_id}")
    session.execute(delete(SignIn).where(SignIn.key_id == key_id))


def rotate_key(
    session: Session, team_id: str, key_id: str, *, overlap: float, expires_in: float | None, made_by: str
) -> tuple[ApiKey, str]:
    """Create a key that replaces another, which ends after `overlap` seconds, or at its own expiry if that is earlier.

    If `expires_in` is None, the new key lasts as long as the old one was to last. Raises NotFound, AlreadyRotated.
    """
    old = session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.team_id == team_id, is_active()).with_for_update())
    if old is None:
        raise NotFound(f"no key {key_id}")
    if next_id := session.scalar(select(ApiKey.id).where(ApiKey.replaces == key_id, is_active()).limit(1)):
        raise AlreadyRotated(f"key {next_id} replaced {key_id}")
    # A rotation shortens the old key's life; its first replacement, which was revoked since, has the lifetime that was meant.
    lost = session.scalar(select(ApiKey).where(ApiKey.replaces == key_id).order_by(ApiKey.created_at).limit(1))
    like = lost or old
    if expires_in is None and like.expires_at is not None:
        expires_in = (like.expires_at - like.created_at).total_seconds()
    end: dt.datetime = session.scalars(select(now(overlap))).one()
    old.expires_at = min(end, old.expires_at or end)
    kept = {"made_by": made_by, "replaces": old.id, "device": old.device_id}
    return create_key(session, team_id, old.name, old.scope, expires_in=expires_in, **kept)


def record_use(key_id: str) -> None:
    """Record that a key was used, to the minute."""

    def write() -> None:
        long_ago = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now(-INTERVAL_SECONDS / 2))
        with writing() as session:
            session.execute(update(ApiKey).where(ApiKey.id == key_id, long_ago).values(last_used_at=now()))

    deferred_writes.submit(("use", key_id), write)
