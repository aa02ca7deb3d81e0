"""Browser sessions: signed in with a key, identified by a cookie, ended by the key's end or by time.

The cookie is 256 random bits; only its hash is stored. Another site's page can make a browser send it, so each change must also
carry a token that only our own pages know: it is derived from the cookie and stored nowhere.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request, Response
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.accounts import keys
from app.core import public_url
from app.core.errors import CsrfFailed
from app.store.clock import now
from app.store.models import ApiKey, SignIn, Team

COOKIE = "lathe_session"
"""Over TLS its name starts with `__Host-`: browsers then accept it only from this host, for all paths, over TLS."""
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"


@dataclass(frozen=True)
class Visitor:
    """The signed-in user, and the token that their changes must carry."""

    team: str
    team_name: str
    key: str
    key_name: str
    scope: str
    csrf: str
    operator: bool = False


def cookie_name(request: Request) -> str:
    """Return the cookie's name for this request."""
    return f"__Host-{COOKIE}" if public_url.is_secure(request) else COOKIE


def read_cookie(request: Request) -> str | None:
    """Return the value of the request's cookie."""
    return request.cookies.get(cookie_name(request))


def hash_token(token: str) -> str:
    """Return the stored hash of a cookie."""
    return hashlib.sha256(token.encode()).hexdigest()


def sign_in(session: Session, key_id: str, seconds: float) -> str:
    """Sign a browser in; return its cookie's value. Deletes expired sessions."""
    token = secrets.token_urlsafe(32)
    session.execute(delete(SignIn).where(SignIn.expires_at <= now()))
    session.add(SignIn(token_sha256=hash_token(token), key_id=key_id, expires_at=now(seconds)))
    return token


def sign_out(session: Session, token: str) -> None:
    """Sign a browser out."""
    session.execute(delete(SignIn).where(SignIn.token_sha256 == hash_token(token)))


def find_visitor(session: Session, token: str) -> Visitor | None:
    """Return the session's visitor; None if the session is unknown or expired, or its key has ended."""
    found = session.execute(
        select(ApiKey, Team.name, Team.operator)
        .join(SignIn, SignIn.key_id == ApiKey.id)
        .join(Team, Team.id == ApiKey.team_id)
        .where(SignIn.token_sha256 == hash_token(token), SignIn.expires_at > now(), keys.is_active())
    ).one_or_none()
    if found is None:
        return None
    key, team_name, operator = found
    return Visitor(key.team_id, team_name, key.id, key.name, key.scope, csrf_token(token), operator)


def csrf_token(token: str) -> str:
    """Return the token that a change of this session must carry."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()


def check_csrf(visitor: Visitor, sent: str | None) -> None:
    """Raise CsrfFailed unless a change carries its session's token."""
    if not hmac.compare_digest(visitor.csrf.encode(), (sent or "").encode()):
        raise CsrfFailed("the request lacks this session's CSRF token")


def check_origin(request: Request) -> None:
    """Raise CsrfFailed for a form that another site sent: at sign-in there is no session whose token it could carry."""
    ours = {request.headers.get("host"), public_url.public_host()}
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc not in ours):
        raise CsrfFailed("the form was sent from another site")


def set_cookie(response: Response, request: Request, token: str, seconds: float) -> None:
    """Set the cookie: hidden from scripts and other sites' forms, and only over TLS if the service is reached by TLS."""
    secure = public_url.is_secure(request)
    response.set_cookie(cookie_name(request), token, max_age=int(seconds), httponly=True, samesite="lax", secure=secure)


def delete_cookie(response: Response, request: Request) -> None:
    """Delete the cookie."""
    secure = public_url.is_secure(request)
    response.delete_cookie(cookie_name(request), httponly=True, samesite="lax", secure=secure)
