"""What is sent and how an answer is taken, without a socket: all that the sync and the async client share.

A `Call` says what to send and how to read the answer; `Attempts` decides after each try what comes next. The transports
(http.py, aio.py) only send, sleep and hand over.
"""

import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from client import config
from client.errors import BadAnswer, Problem, Unreachable
from client.types import Page, parse

R = TypeVar("R")
T = TypeVar("T", bound=BaseModel)

AGAIN = frozenset({429, 502, 503, 504})
"""Answers that say: not now."""
LONGEST_PAUSE = 20.0
PATIENT = 12
"""Attempts of who follows a job, two minutes in all: a service that is brought to a new version is back by then."""


def pause(attempt: int, retry_after: str | None = None) -> float:
    """Say how many seconds to wait before attempt + 1: what the service asks for, else twice as long each time, with jitter."""
    if retry_after and retry_after.isdigit():
        return min(float(retry_after), LONGEST_PAUSE)
    return min(0.25 * 2.0**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def body_of(response: httpx.Response) -> Any:
    """Return the JSON of an answer. Raises BadAnswer for a page of something else that answers at this address."""
    try:
        return response.json()
    except ValueError as error:
        raise BadAnswer(f"{response.url} answers with something that is not JSON") from error


def read(kind: type[T], response: httpx.Response) -> T:
    """Return an answer as a typed object. Raises BadAnswer."""
    return read_item(kind, body_of(response), response.url)


def read_item(kind: type[T], body: Any, url: object) -> T:
    """Return a part of an answer as a typed object. Raises BadAnswer."""
    try:
        return parse(kind, body)
    except ValidationError as error:
        raise BadAnswer(f"{url} answers with something that is no {kind.__name__}: {error.errors()[0]['msg']}") from error


def as_(kind: type[T]) -> Callable[[httpx.Response], T]:
    """Return what reads an answer as a typed object."""
    return lambda response: read(kind, response)


def ignored(_response: httpx.Response) -> None:
    """Read nothing of an answer: that it came is all."""


@dataclass(frozen=True)
class Call(Generic[R]):
    """One request and how its answer is read. `repeatable`: that it may be sent again though it may have arrived."""

    method: str
    path: str
    take: Callable[[httpx.Response], R]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    repeatable: bool = True
    attempts: int | None = None


@dataclass(frozen=True)
class Listing(Generic[R]):
    """A list that comes in pages, and how one of its items is read."""

    path: str
    item: Callable[[Any], R]
    params: Mapping[str, Any] = field(default_factory=dict)

    def page(self, token: str | None = None) -> Call[tuple[list[R], str | None]]:
        """Return the call that brings one page and the token of the next."""

        def take(response: httpx.Response) -> tuple[list[R], str | None]:
            found = read(Page, response)
            try:
                return [self.item(item) for item in found.items], found.next_page_token
            except ValidationError as error:
                raise BadAnswer(f"{response.url} lists something else: {error.errors()[0]['msg']}") from error

        return Call("GET", self.path, take, {**self.params, "page_token": token})


class Attempts:
    """The tries of one call: told how each went, says how long to pause before the next, or raises what it comes to."""

    def __init__(self, url: str, most: int, *, repeatable: bool) -> None:
        self.url, self.most, self.repeatable = url, most, repeatable
        self.made = 0

    def broke(self, error: httpx.TransportError) -> float:
        """No answer came. Raises Unreachable."""
        if isinstance(error, httpx.UnsupportedProtocol):
            raise Unreachable(f"{self.url} is not an http address: {error}") from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            remedy = "Name the authority that signed it: SSL_CERT_FILE=ca.pem."
            raise Unreachable(f"{self.url} has a certificate that is not trusted here: {error}", remedy=remedy) from error
        failure = Unreachable(f"{self.url} does not answer: {error or type(error).__name__}")
        arrived = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        return self._next(failure, error, final=arrived and not self.repeatable)

    def refused(self, response: httpx.Response) -> float:
        """An answer came that is no success; its body is read already. Raises Problem and Unreachable."""
        problem = Problem.of(response)
        if response.status_code not in AGAIN or not self.repeatable:
            raise problem
        failure = Unreachable(
            f"{self.url} answers {response.status_code}: {problem.cause}", remedy=problem.remedy_text or Unreachable.remedy
        )
        return self._next(failure, problem, wait=response.headers.get("retry-after"))

    def _next(self, failure: Unreachable, cause: Exception, *, wait: str | None = None, final: bool = False) -> float:
        self.made += 1
        if final or self.made >= self.most:
            raise failure from cause
        return pause(self.made, wait)


class Peer:
    """A service, the key that says who asks, and how long and how often to ask."""

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 60.0, attempts: int = 5) -> None:
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self.url = url.rstrip("/")
        self.key, self.timeout, self.attempts = key, timeout, attempts

    @classmethod
    def from_config(cls, **options: Any) -> Self:
        """Return the service that LATHE_URL and LATHE_KEY, or $LATHE_HOME/client.json name. Raises NoKey and BadConfig."""
        found = config.load()
        return cls(found.url, found.require_key(), **options)

    @property
    def authorization(self) -> dict[str, str]:
        """The header that signs a request to the service itself."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def limit(self, seconds: float | None = None) -> httpx.Timeout:
        """Say how long one try may take, or be silent."""
        return httpx.Timeout(seconds or self.timeout, connect=10.0)

    def options(self, call: Call[Any]) -> dict[str, Any]:
        """Return what httpx is to send, the same in every try: a POST keeps its Idempotency-Key."""
        headers = {**self.authorization, **call.headers}
        if call.method == "POST":
            headers.setdefault("Idempotency-Key", uuid.uuid4().hex)
        return {
            "method": call.method,
            "url": self.url + call.path,
            "params": {name: value for name, value in call.params.items() if value is not None},
            "json": call.body,
            "headers": headers,
            "timeout": self.limit(call.timeout),
        }

    def tries(self, call: Call[Any]) -> Attempts:
        """Begin to count."""
        return Attempts(self.url, max(self.attempts, call.attempts or 0), repeatable=call.repeatable)
