"""Rate limits: by key, by address, and much stricter for failed attempts of an address (wrong keys and links).

All API processes share the counts at LATHE_RATE_STORAGE_URL. Without it, and for a while if that storage is away, each process
counts by itself: no request fails because a count failed. Every response has the remaining budget in the RateLimit fields of
the IETF draft (draft-ietf-httpapi-ratelimit-headers).
"""

import datetime as dt
import hashlib
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import structlog
from anyio import from_thread
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.storage import storage_from_string
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.accounts import sessions
from app.core.errors import Problem, RateLimited, problem_response
from app.core.networks import client_network
from app.core.settings import Settings, get_settings

log = structlog.get_logger()
AWAY_SECONDS = 30.0
"""For so long this process counts by itself after the shared storage failed."""
KNOWN = 1024
"""Recently accepted credentials: their holders are admitted even if others at the same address guess."""
UNLIMITED_PATHS = frozenset({"/healthz/live", "/healthz/ready"})
"""Polled by machines that restart what does not answer."""
OPTIONS: dict[str, float | str | bool] = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "implementation": "redispy"}


@dataclass(frozen=True)
class Window:
    """What is left of one limit for one key or address."""

    name: str
    item: RateLimitItem
    left: int
    seconds: int
    """Until the window restarts."""

    @property
    def policy(self) -> str:
        """Return the limit as a RateLimit-Policy field."""
        return f'"{self.name}";q={self.item.amount};w={self.item.get_expiry()}'

    @property
    def state(self) -> str:
        """Return the remaining budget as a RateLimit field."""
        return f'"{self.name}";r={self.left};t={self.seconds}'

    def refusal(self) -> Problem:
        """Return the problem for a request beyond the limit."""
        most, frees = self.item.amount, f"the window restarts in {self.seconds} seconds"
        begins = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.seconds)
        quota = {"name": f"rate_{self.name}", "limit": most, "used": most, "frees": frees, "frees_at": begins.isoformat()}
        cause = f"more than {most} requests in {self.item.get_expiry()} seconds: {WORDS[self.name]}"
        return RateLimited(cause, headers={"Retry-After": str(self.seconds)}, facts={"quota": quota})


WORDS = {"key": "of this key", "address": "from this address", "wrong": "from this address with wrong keys or links"}


class RateCounter:
    """Counts requests. One per process."""

    def __init__(self, settings: Settings) -> None:
        asked = {"key": settings.rate_per_key, "address": settings.rate_per_address, "wrong": settings.rate_wrong}
        self.items = {name: parse(text) for name, text in asked.items()}
        self.own = FixedWindowRateLimiter(MemoryStorage())
        self.shared: FixedWindowRateLimiter | None = None
        if settings.rate_storage_url:
            place: Any = storage_from_string(f"async+{settings.rate_storage_url}", **OPTIONS)
            self.shared = FixedWindowRateLimiter(place)
        self.away_until = 0.0
        self.known: OrderedDict[str, None] = OrderedDict()

    async def count(self, name: str, who: str, cost: int = 1) -> tuple[bool, Window]:
        """Count a request, or with cost 0 only look; return whether it is within the limit, and what is left."""
        if self.shared is not None and time.monotonic() >= self.away_until:
            try:
                return await self._count(self.shared, name, who, cost)
            except Exception as error:  # whatever the client raises: the storage is away
                self.away_until = time.monotonic() + AWAY_SECONDS
                log.warning("rate_storage_away", error=f"{type(error).__name__}: {error}"[:200])
        return await self._count(self.own, name, who, cost)

    async def _count(self, limiter: FixedWindowRateLimiter, name: str, who: str, cost: int) -> tuple[bool, Window]:
        item = self.items[name]
        within = await limiter.hit(item, name, who, cost=cost) if cost else await limiter.test(item, name, who)
        reset, left = await limiter.get_window_stats(item, name, who)
        return within, Window(name, item, max(0, left), max(1, math.ceil(reset - time.time())))

    def remember(self, credential: str) -> None:
        """Remember an accepted credential."""
        self.known[credential] = None
        self.known.move_to_end(credential)
        if len(self.known) > KNOWN:
            self.known.popitem(last=False)


@lru_cache
def get_rate_counter() -> RateCounter:
    """Return this process's counter."""
    return RateCounter(get_settings())


async def count_request(request: Request, key: str) -> None:
    """Count a request of an authenticated key. Raises RateLimited."""
    state = request.scope.setdefault("state", {})
    if (credential := state.get("credential")) is not None:
        get_rate_counter().remember(credential)
    within, window = await get_rate_counter().count("key", key)
    state.setdefault("windows", []).append(window)
    if not within:
        raise window.refusal()


def count_request_from_thread(request: Request, key: str) -> None:
    """Count it from a thread that the event loop waits for. Raises RateLimited."""
    from_thread.run(count_request, request, key)


def _address(scope: Scope) -> str:
    return client_network((scope.get("client") or ("local", 0))[0])


async def _spent_guesses(asker: str, credential: str | None) -> Window | None:
    """Return the window of wrong credentials if an address has spent it, and does not show one that was accepted lately.

    Asked before any lookup: a guess beyond the limit learns nothing, not even whether it was right.
    """
    rates = get_rate_counter()
    if credential is None or credential in rates.known:
        return None
    within, window = await rates.count("wrong", asker, cost=0)
    return None if within else window


async def _admit_form(request: Request, key: str) -> None:
    state = request.scope.setdefault("state", {})
    credential = state["credential"] = _hash(f"Bearer {key}")
    if (window := await _spent_guesses(_address(request.scope), credential)) is not None:
        state.setdefault("windows", []).append(window)
        raise window.refusal()


def admit_form(request: Request, key: str) -> None:
    """Check, before a key from a form is looked up, that its address has not sent too many wrong ones. Raises RateLimited.

    The middleware sees no bodies, so the route calls this, from a thread that the event loop waits for.
    """
    from_thread.run(_admit_form, request, key)


def remember_session(token: str) -> None:
    """Remember the cookie of a sign-in: its browser is admitted even if others at the same address guess."""
    get_rate_counter().remember(_hash(token))


def _hash(shown: str) -> str:
    return hashlib.sha256(shown.encode()).hexdigest()


def _credential(scope: Scope) -> str | None:
    """Return the hash of a request's credential (a key, a session's cookie, a link); None without one, or for a form."""
    if scope["path"].startswith("/share/"):
        return _hash(scope["path"])
    if scope["path"] == "/sign-in" and scope["method"] == "POST":
        return None
    shown = Headers(scope=scope).get("authorization") or sessions.read_cookie(Request(scope))
    return _hash(shown) if shown else None


class RateLimitMiddleware:
    """Limits requests by address, counts failed attempts, and adds the remaining budget to each response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in UNLIMITED_PATHS:
            await self.app(scope, receive, send)
            return
        rates, asker = get_rate_counter(), _address(scope)
        state = scope.setdefault("state", {})
        credential = state["credential"] = _credential(scope)
        within, window = await rates.count("address", asker)
        refused = await _spent_guesses(asker, credential) if within else window
        windows = state["windows"] = [refused or window]
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["RateLimit-Policy"] = ", ".join(one.policy for one in windows)
                headers["RateLimit"] = ", ".join(one.state for one in windows)
            await send(message)

        if refused is not None:
            await problem_response(refused.refusal(), Request(scope))(scope, receive, answer)
            return
        try:
            await self.app(scope, receive, answer)
        finally:
            if state["credential"] is not None and (status == 401 or (status == 404 and scope["path"].startswith("/share/"))):
                await rates.count("wrong", asker)
