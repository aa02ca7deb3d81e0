"""What is sent and how an answer is read, without a socket: requests as data, and operations as generators of steps.

An operation yields steps (`Send`, `Pause`, `EventStream`, `Item`) and is sent back what came of each. The drivers
(drivers.py) carry the steps out, blocking or awaited; retries, pages and waiting are decided here, once for both.
"""

import json
import random
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from client import config
from client.errors import BadAnswer, BadConfig, BadId, BadNumber, Problem, Unreachable
from client.types import Event, Page, parse

R = TypeVar("R")
T = TypeVar("T", bound=BaseModel)

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Answers that mean: not now."""
LIMITED = 429
"""The one of them that a service gives which works."""
LONGEST_PAUSE = 20.0
PATIENT = 12
"""Attempts of a caller that follows a job, two minutes in all: a service that is being upgraded is back by then."""
Content = Callable[[], Iterable[bytes]]
"""Gives the body anew for each attempt."""


def pause(attempt: int, retry_after: str | None = None) -> float:
    """Return the seconds to wait before attempt + 1: what the service asks for, else doubled each time, with jitter."""
    if retry_after and retry_after.isdigit():
        return min(float(retry_after), LONGEST_PAUSE)
    return min(0.25 * 2.0**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def read_json(response: httpx.Response) -> Any:
    """Return the JSON of an answer. Raises BadAnswer if a page of something else answers at this address."""
    try:
        return response.json()
    except ValueError as error:
        raise BadAnswer(f"{response.url} answers with something that is not JSON") from error


def read(kind: type[T], response: httpx.Response) -> T:
    """Return an answer as a typed object. Raises BadAnswer."""
    try:
        return parse(kind, read_json(response))
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise BadAnswer(f"{response.url} answers with something that is no {kind.__name__}: {message}") from error


@dataclass(frozen=True)
class Send:
    """Send one request; the driver answers with its response, or with the error that the transport raised."""

    options: dict[str, Any]
    content: Content | None = None


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class EventStream:
    """Read a stream of events until it ends or breaks, and hand each new event to the caller."""

    options: dict[str, Any]
    open: Callable[[httpx.Response], bool]  #: whether an answer is a stream to read; raises Problem
    feed: Callable[[str], Event | None]  #: takes a line in; returns the event that it ends


@dataclass(frozen=True)
class Item(Generic[R]):
    """Hand a value to the caller, if the operation is iterated."""

    value: R


Steps = Generator[Send | Pause | EventStream | Item[Any], Any, R]
"""An operation that returns an R."""
Stream = Generator[Send | Pause | EventStream | Item[R], Any, Any]
"""An operation that hands out Rs."""


@dataclass(frozen=True)
class Request(Generic[R]):
    """One request and how its answer is read."""

    method: str
    path: str
    take: Callable[[httpx.Response], R]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    repeatable: bool = True  #: whether it may be sent again although it may have arrived
    attempts: int | None = None  #: attempts at least, in place of the client's
    content: Content | None = None

    def steps(self, peer: "Peer") -> Steps[R]:
        """Send until an answer comes that is not worth another attempt. Raises Problem and Unreachable."""
        send, attempts = Send(peer.options(self), self.content), Attempts(peer, self)
        while True:
            answer = yield send
            if isinstance(answer, httpx.Response) and answer.is_success:
                return self.take(answer)
            yield Pause(attempts.failed(answer))


@dataclass(frozen=True)
class Listing(Generic[R]):
    """A list that comes in pages, and how one of its items is read."""

    path: str
    item: Callable[[Any], R]
    params: Mapping[str, Any] = field(default_factory=dict)

    def _take(self, response: httpx.Response) -> tuple[list[R], str | None]:
        found = read(Page, response)
        try:
            return [self.item(item) for item in found.items], found.next_page_token
        except ValidationError as error:
            raise BadAnswer(f"{response.url} lists something else: {error.errors()[0]['msg']}") from error

    def steps(self, peer: "Peer") -> Stream[R]:
        """Hand out the items, page after page."""
        token: str | None = None
        while True:
            items, token = yield from Request("GET", self.path, self._take, {**self.params, "page_token": token}).steps(peer)
            for item in items:
                yield Item(item)
            if not token:
                return


class Attempts:
    """Counts the attempts of one request, and decides after each failure what comes next."""

    def __init__(self, peer: "Peer", request: Request[Any]) -> None:
        self.url, self.repeatable = peer.url, request.repeatable
        self.most = max(peer.attempts, request.attempts or 0)
        self.made = 0

    def failed(self, answer: httpx.Response | httpx.TransportError) -> float:
        """Return the seconds to pause before the next attempt. Raises Problem, or Unreachable if there is to be none."""
        if isinstance(answer, httpx.TransportError):
            return self._broken(answer)
        problem, wait = Problem.of(answer), answer.headers.get("retry-after")
        if answer.status_code not in RETRIED_STATUSES or not self.repeatable:
            raise problem
        if answer.status_code == LIMITED:
            return self._next(problem, None, wait=wait)
        remedy = problem.remedy_text or Unreachable.remedy
        failure = Unreachable(f"{self.url} answers {answer.status_code}: {problem.cause}", remedy=remedy)
        return self._next(failure, problem, wait=wait)

    def _broken(self, error: httpx.TransportError) -> float:
        if isinstance(error, httpx.UnsupportedProtocol):
            raise Unreachable(f"{self.url} is not an http address: {error}") from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            remedy = "Name the authority that signed it: SSL_CERT_FILE=ca.pem."
            raise Unreachable(f"{self.url} has a certificate that is not trusted here: {error}", remedy=remedy) from error
        failure = Unreachable(f"{self.url} does not answer: {error or type(error).__name__}")
        arrived = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        return self._next(failure, error, final=arrived and not self.repeatable)

    def _next(
        self, failure: Problem | Unreachable, cause: Exception | None, *, wait: str | None = None, final: bool = False
    ) -> float:
        self.made += 1
        if final or self.made >= self.most:
            raise failure from cause
        return pause(self.made, wait)


def address_of(url: str, path: str) -> str:
    """Return the address of a path of a service. Raises BadId."""
    if not path.isascii() or not path.isprintable() or " " in path:
        raise BadId(f"{path!r:.200} has an id with signs that no id has")
    return url + path


def _checked(key: str | None) -> str | None:
    """Return a key without the space around it. Raises BadConfig, which does not repeat it, for what no header can have."""
    key = key and key.strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        remedy = "Set LATHE_KEY to the key alone, as it was printed when it was made."
        raise BadConfig("the key has signs that no key has", remedy=remedy)
    return key


class Peer:
    """A service, the key that signs requests to it, and how long and how often to try."""

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 60.0, attempts: int = 5) -> None:
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        try:
            httpx.URL(url)
        except httpx.InvalidURL as error:
            raise BadConfig(f"{url!r} is no address: {error}", remedy="Correct LATHE_URL: http://HOST:PORT.") from error
        self.url = url.rstrip("/")
        self.key, self.timeout, self.attempts = _checked(key), timeout, attempts

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
        """Return how long one attempt may take, or be silent."""
        return httpx.Timeout(seconds or self.timeout, connect=10.0)

    def options(self, request: Request[Any]) -> dict[str, Any]:
        """Return what httpx is to send, the same in every attempt: a POST keeps its Idempotency-Key.

        Raises BadNumber and BadId.
        """
        try:
            json.dumps(request.body, allow_nan=False)
        except ValueError as error:
            raise BadNumber(f"a number of the request to {request.path} is infinite or nan") from error
        headers = {**self.authorization, **request.headers}
        if request.method == "POST":
            headers.setdefault("Idempotency-Key", uuid.uuid4().hex)
        return {
            "method": request.method,
            "url": address_of(self.url, request.path),
            "params": {name: value for name, value in request.params.items() if value is not None},
            "json": request.body,
            "headers": headers,
            "timeout": self.limit(request.timeout),
        }
