"""Authentication of requests, and the scope that each route requires. API keys are `lathe_<id>_<secret>` (keys.py).

A browser that signed in with a key sends a cookie instead (sessions.py): pages use the same paths as scripts. A route declares
its requirement in its signature: CallerDep, WriterDep or another one below; `find_requirement` reads it back.
"""

import hmac
import re
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.security import APIKeyCookie, HTTPBearer
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import audit, keys, rate_limits, sessions
from app.core.errors import InsufficientScope, ReadOnlyKey, Unauthorized
from app.store.clock import now
from app.store.db import reading
from app.store.models import ADMIN, DEVICE, READ, WRITE, ApiKey, SignIn, Team

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
RANKS = {READ: 1, WRITE: 2, ADMIN: 3}
"""A scope includes those below it. DEVICE is separate: it may only do what names it."""
_FORM = re.compile(r"lathe_([0-9a-z]{10})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Caller:
    """The sender of a request."""

    team: str
    key: str
    scope: str = WRITE
    cookie: str | None = None
    """The hash of a browser's cookie; None for callers with a key."""
    operator: bool = False
    """Whether the team operates the service."""
    device: str | None = None
    """The registered device that the key is of."""


def _known(session: Session, token: str) -> tuple[Caller, str | None] | None:
    """Return the caller that a token names, and why it is refused; None if it names no key."""
    parts = _FORM.fullmatch(token)
    query = select(ApiKey, Team.operator, keys.is_active()).join(Team, Team.id == ApiKey.team_id)
    found = session.execute(query.where(ApiKey.id == parts[1])).one_or_none() if parts else None
    # The comparison takes as long for an unknown key as for a wrong secret.
    expected = found[0].secret_sha256 if found else "0" * 64
    matches = hmac.compare_digest(expected, keys.hash_secret(parts[2] if parts else ""))
    if found is None:
        return None
    key, operator, lives = found
    refused = "wrong_secret" if not matches else None if lives else "revoked" if key.revoked_at else "expired"
    return Caller(key.team_id, key.id, key.scope, operator=operator, device=key.device_id), refused


def authenticate(session: Session, token: str) -> Caller | None:
    """Return the key's caller; None if the key is unknown, revoked or expired."""
    found = _known(session, token)
    return found[0] if found and found[1] is None else None


def recognize_key(request: Request, token: str) -> Caller | None:
    """Return the sender of a key and record its use; record a refused attempt with a known key."""
    with reading() as session:
        found = _known(session, token)
    if found is None:
        return None
    caller, refused = found
    if refused:
        audit.record_wrong_secret(request, caller.team, caller.key, refused)
        return None
    keys.record_use(caller.key)
    return caller


def is_active(session: Session, caller: Caller) -> bool:
    """Return whether the caller's key or session is still valid: a stream may be open for hours."""
    query = select(ApiKey.id).where(ApiKey.id == caller.key, keys.is_active())
    if caller.cookie is not None:
        on = (SignIn.key_id == ApiKey.id) & (SignIn.expires_at > now())
        query = query.join(SignIn, on).where(SignIn.token_sha256 == caller.cookie)
    return session.scalar(query) is not None


def get_caller(request: Request) -> Caller:
    """Authenticate by the Authorization header, or else by a cookie. The database session ends before the handler works.

    Raises Unauthorized; CsrfFailed for a change by cookie without its token.
    """
    changes = request.method not in SAFE_METHODS
    header, cookie = request.headers.get("authorization"), sessions.read_cookie(request)
    if header is None and cookie:
        with reading() as session:
            visitor = sessions.find_visitor(session, cookie)
        if visitor is None:
            raise Unauthorized("the session is over", remedy="Sign in again.")
        keys.record_use(visitor.key)
        audit.begin_action(request, visitor.team, visitor.key, changes=changes)
        if changes:
            sessions.check_csrf(visitor, request.headers.get(sessions.CSRF_HEADER))
        return Caller(visitor.team, visitor.key, visitor.scope, sessions.hash_token(cookie), visitor.operator)
    caller = _bearer(request, header or "")
    audit.begin_action(request, caller.team, caller.key, changes=changes)
    return caller


def _bearer(request: Request, header: str) -> Caller:
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthorized("the request has no bearer token")
    caller = recognize_key(request, token.strip())
    if caller is None:
        raise Unauthorized("the key is unknown, revoked or expired")
    return caller


# For OpenAPI: the two ways to authenticate. They read nothing themselves; get_caller decides which one counts.
BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="An API key, `lathe_<id>_<secret>`.")
COOKIE = APIKeyCookie(
    auto_error=False,
    name=sessions.COOKIE,
    scheme_name="browser",
    description=f"A browser's cookie (over https `__Host-{sessions.COOKIE}`); each change also needs {sessions.CSRF_HEADER}.",
)


async def _counted(request: Request) -> Caller:
    """Authenticate in a thread, because the database may block, and count the request on the event loop. Raises RateLimited."""
    caller = await run_in_threadpool(get_caller, request)
    await rate_limits.count_request(request, caller.key)
    return caller


class Requires:
    """What a route requires of its caller's key. An object, so that tests can read each route's requirement."""

    def __init__(self, scope: str, *, device: bool = False, operator: bool = False) -> None:
        self.scope = scope
        """The lowest scope that is admitted."""
        self.device = device
        """Whether a machine that only measures is admitted, too."""
        self.operator = operator
        """Whether the key's team must operate the service."""

    def admits(self, scope: str, *, operator: bool = False) -> bool:
        """Return whether a key is admitted."""
        if scope == DEVICE:
            return self.device
        return RANKS[scope] >= RANKS[self.scope] and (operator or not self.operator)

    def check(self, request: Request, caller: Caller) -> Caller:
        """Count the request and admit the caller, from a thread. Raises RateLimited and what `allow` raises."""
        rate_limits.count_request_from_thread(request, caller.key)
        return self.allow(request, caller)

    def allow(self, request: Request, caller: Caller) -> Caller:
        """Return the caller. Raises InsufficientScope, or ReadOnlyKey for a change with such a key."""
        if self.admits(caller.scope, operator=caller.operator):
            return caller
        if caller.scope == READ and request.method not in SAFE_METHODS:
            raise ReadOnlyKey(f"key {caller.key} is read-only")
        team = " of the operating team" if self.operator else ""
        raise InsufficientScope(f"key {caller.key} has scope `{caller.scope}`; this needs `{self.scope}`{team}")

    async def __call__(
        self, request: Request, _bearer: Annotated[Any, Security(BEARER)], _cookie: Annotated[Any, Security(COOKIE)]
    ) -> Caller:
        """Admit the caller, or raise."""
        return self.allow(request, await _counted(request))


class Submits(Requires):
    """Requirement to submit: a forecast (`validate_only`) stores nothing, so a read-only key is enough for one."""

    forecast = Requires(READ)

    async def __call__(
        self,
        request: Request,
        _bearer: Annotated[Any, Security(BEARER)],
        _cookie: Annotated[Any, Security(COOKIE)],
        validate_only: bool = False,
    ) -> Caller:
        """Admit the caller, or raise."""
        caller = await _counted(request)
        if not validate_only:
            return self.allow(request, caller)
        audit.mark_read_only(request)
        return self.forecast.allow(request, caller)


class Measures(Requires):
    """Requirement of a device's own work: no other key does it, whatever it may do besides."""

    def admits(self, scope: str, *, operator: bool = False) -> bool:  # noqa: ARG002 (as above)
        """Return whether a key is a device's."""
        return scope == DEVICE


class Asks(Requires):
    """Requirement of a POST that changes nothing."""

    async def __call__(
        self, request: Request, _bearer: Annotated[Any, Security(BEARER)], _cookie: Annotated[Any, Security(COOKIE)]
    ) -> Caller:
        """Admit the caller, or raise."""
        caller = await _counted(request)
        audit.mark_read_only(request)
        return self.allow(request, caller)


def find_requirement(dependant: Dependant) -> Requires | None:
    """Return the requirement of a route (its `dependant`); None if it is public."""
    for below in dependant.dependencies:
        if isinstance(below.call, Requires):
            return below.call
        if (found := find_requirement(below)) is not None:
            return found
    return None


def _dep(needed: Requires) -> Any:
    return Security(needed, scopes=[needed.scope])


CallerDep = Annotated[Caller, _dep(Requires(READ))]
"""Callers who may read. The other names state what more a route requires."""
DeviceDep = Annotated[Caller, _dep(Requires(READ, device=True))]
MeasurerDep = Annotated[Caller, _dep(Measures(DEVICE))]
AskerDep = Annotated[Caller, _dep(Asks(READ))]
WriterDep = Annotated[Caller, _dep(Requires(WRITE))]
SubmitterDep = Annotated[Caller, _dep(Submits(WRITE))]
AdminDep = Annotated[Caller, _dep(Requires(ADMIN))]
OperatorDep = Annotated[Caller, _dep(Requires(ADMIN, operator=True))]


class Scoped(Protocol):
    """A caller or a visitor."""

    @property
    def scope(self) -> str: ...  # noqa: D102

    @property
    def operator(self) -> bool: ...  # noqa: D102


def sees_hosts(caller: Scoped) -> bool:
    """Return whether a caller operates the service and may see its hosts and processes; all others are tenants."""
    return caller.scope == ADMIN and caller.operator
