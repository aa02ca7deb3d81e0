"""The service's HTTP interface as typed calls. One object, one service, safe to share between threads.

What may be sent again is sent again with back-off: reads, uploads and deletes because they change nothing twice, creating
POSTs because each carries an Idempotency-Key that stays the same over all attempts.
"""

import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from client.errors import BadAnswer, Problem, Unreachable
from client.types import (
    Artifact,
    Dataset,
    Event,
    Job,
    Key,
    Manifest,
    Model,
    NewKey,
    Page,
    Preflight,
    Preset,
    Report,
    parse,
)

Kind = Literal["models", "datasets"]
Content = Callable[[], Iterable[bytes]]
"""Gives the body anew for each attempt."""
T = TypeVar("T", bound=BaseModel)

AGAIN = frozenset({429, 502, 503, 504})
LONGEST_PAUSE = 20.0
UPLOADS: dict[Kind, type[Model] | type[Dataset]] = {"models": Model, "datasets": Dataset}


def pause(attempt: int, retry_after: str | None = None) -> float:
    """Say how long to wait before attempt + 1: what the service asks for, else twice as long each time, with jitter."""
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
    try:
        return parse(kind, body_of(response))
    except ValidationError as error:
        raise BadAnswer(
            f"{response.url} answers with something that is no {kind.__name__}: {error.errors()[0]['msg']}"
        ) from error


class Lathe:
    """A service, and the key that says who asks."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 60.0, attempts: int = 5, client: httpx.Client | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.attempts = attempts
        self.timeout = timeout
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Redirects are followed by hand (transfer.py), because a presigned URL must not see our key.
        self.http = client or httpx.Client(timeout=httpx.Timeout(timeout, connect=10.0), follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    # Requests

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        repeatable: bool = True,
    ) -> httpx.Response:
        """Send until an answer comes that is not worth another attempt. Raises Problem and Unreachable.

        What is not `repeatable` is sent again only where it surely did not arrive.
        """
        sent = {**self._headers, **(headers or {})}
        if method == "POST":
            sent.setdefault("Idempotency-Key", uuid.uuid4().hex)
        query = {name: value for name, value in (params or {}).items() if value is not None}
        limit = httpx.Timeout(timeout or self.timeout, connect=10.0)
        for attempt in range(1, self.attempts + 1):
            wait: str | None = None
            try:
                response = self.http.request(
                    method,
                    self.url + path,
                    params=query,
                    json=body,
                    content=content() if content else None,
                    headers=sent,
                    timeout=limit,
                )
            except httpx.UnsupportedProtocol as error:
                raise Unreachable(f"{self.url} is not an http address: {error}") from error
            except httpx.TransportError as error:
                failure = Unreachable(f"{self.url} does not answer: {error or type(error).__name__}")
                cause: Exception = error
                if not repeatable and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    raise failure from error
            else:
                if response.is_success:
                    return response
                problem = Problem.of(response)
                if response.status_code not in AGAIN or not repeatable:
                    raise problem
                wait = response.headers.get("retry-after")
                failure, cause = Unreachable(f"{self.url} answers {response.status_code}: {problem.cause}"), problem
                failure.remedy_text = problem.remedy_text or failure.remedy_text
            if attempt == self.attempts:
                raise failure from cause
            time.sleep(pause(attempt, wait))
        raise AssertionError("attempts must be at least 1")

    def get(self, kind: type[T], path: str, **options: Any) -> T:
        """GET one object."""
        return read(kind, self.request("GET", path, **options))

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the items of a list, page after page."""
        token: str | None = None
        while True:
            page = self.get(Page, path, params={**(params or {}), "page_token": token})
            yield from page.items
            token = page.next_page_token
            if not token:
                return

    # Models and datasets

    def create_upload(self, kind: Kind, body: Mapping[str, Any], files: Sequence[Manifest]) -> Model | Dataset:
        """Promise the files of a new model or dataset."""
        manifest = [file.model_dump(include={"path", "size", "sha256"}) for file in files]
        answer = self.request("POST", f"/v1/{kind}", body={**body, "files": manifest})
        return read(UPLOADS[kind], answer)

    def put_file(self, kind: Kind, upload_id: str, file: Manifest, content: Content) -> None:
        """Send one file's bytes."""
        headers = {"Content-Length": str(file.size), "Content-Type": "application/octet-stream"}
        self.request("PUT", f"/v1/{kind}/{upload_id}/files/{quote(file.path)}", content=content, headers=headers)

    def complete(self, kind: Kind, upload_id: str) -> Model | Dataset:
        """Say that all files are there; the service checks them."""
        return read(UPLOADS[kind], self.request("POST", f"/v1/{kind}/{upload_id}/complete"))

    def upload(self, kind: Kind, upload_id: str, *, wait: float = 0) -> Model | Dataset:
        """Return a model or dataset, if asked to once its check has ended or `wait` seconds are over."""
        return read(UPLOADS[kind], self.request("GET", f"/v1/{kind}/{upload_id}", **_waiting(wait)))

    def uploads(self, kind: Kind) -> Iterator[Model | Dataset]:
        """Yield all models or datasets of the team."""
        for item in self.pages(f"/v1/{kind}"):
            yield parse(UPLOADS[kind], item)

    def delete(self, path: str) -> None:
        """DELETE what the path under /v1 names."""
        self.request("DELETE", f"/v1/{path}")

    # Jobs

    def preflight(self, body: Mapping[str, Any]) -> Preflight:
        """Check a job without creating it: what it would become and cost."""
        return read(Preflight, self.request("POST", "/v1/jobs", params={"validate_only": "true"}, body=body))

    def submit(self, body: Mapping[str, Any]) -> Job:
        """Create a job. Once this returns, the job is stored and will reach exactly one outcome."""
        return read(Job, self.request("POST", "/v1/jobs", body=body))

    def job(self, job_id: str, *, wait: float = 0, seen: int | None = None) -> Job:
        """Return a job; with `wait`, as soon as it is past the version that was `seen`, or when the seconds are over."""
        options = _waiting(wait)
        return self.get(Job, f"/v1/jobs/{job_id}", params={"version": seen} if wait else None, **options)

    def jobs(self, *, state: str | None = None, label: str | None = None, model: str | None = None) -> Iterator[Job]:
        """Yield the team's jobs, newest first."""
        for item in self.pages("/v1/jobs", {"state": state, "label": label, "model": model}):
            yield parse(Job, item)

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop."""
        return read(Job, self.request("POST", f"/v1/jobs/{job_id}/cancel"))

    def retry(self, job_id: str) -> Job:
        """Make a new job out of an ended one."""
        return read(Job, self.request("POST", f"/v1/jobs/{job_id}/retry"))

    def report(self, job_id: str) -> Report:
        """Return the whole result of a job that succeeded."""
        return self.get(Report, f"/v1/jobs/{job_id}/report")

    def artifacts(self, job_id: str) -> list[Artifact]:
        """Return what a job made."""
        return [parse(Artifact, item) for item in self.pages(f"/v1/jobs/{job_id}/artifacts")]

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield the events so far whose seq is greater than `after`."""
        for item in self.pages(f"/v1/jobs/{job_id}/events", {"after": after}):
            event = parse(Event, item)
            # A page token overrides `after` on the service's side; this keeps an event from being told twice.
            if event.seq > after:
                after = event.seq
                yield event

    @contextmanager
    def _event_stream(self, job_id: str, after: int) -> Iterator[httpx.Response]:
        headers = {**self._headers, "Accept": "text/event-stream", "Last-Event-ID": str(after)}
        # The service sends a comment every few seconds; a silence longer than this is a dead connection.
        limit = httpx.Timeout(self.timeout, connect=10.0)
        with self.http.stream(
            "GET", f"{self.url}/v1/jobs/{job_id}/events", params={"after": after}, headers=headers, timeout=limit
        ) as response:
            yield response

    def follow(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield events as they happen until the job has ended. A broken stream is taken up where it broke."""
        attempt = 0
        while True:
            try:
                with self._event_stream(job_id, after) as response:
                    if response.is_success:
                        for event in _server_sent(response.iter_lines()):
                            attempt, after = 0, max(after, event.seq)
                            yield event
                    elif response.status_code not in AGAIN:
                        response.read()
                        raise Problem.of(response)
            except httpx.TransportError:
                pass  # taken up again below, or reported by job()
            if self.job(job_id).ended:
                yield from self.events(job_id, after=after)
                return
            attempt += 1
            time.sleep(pause(attempt))

    # The rest

    def recipes(self) -> list[Preset]:
        """Return the recipes that have a name."""
        return [parse(Preset, item) for item in self.pages("/v1/recipes")]

    def listing(self, name: str) -> Any:
        """Return the answer of a read-only resource (families, workers, queue) as it came."""
        return body_of(self.request("GET", f"/v1/{name}"))

    def create_key(self, name: str) -> NewKey:
        """Make another key. It is shown this once, so the service stores no answer that could be replayed."""
        return read(NewKey, self.request("POST", "/v1/keys", body={"name": name}, repeatable=False))

    def keys(self) -> Iterator[Key]:
        """Yield the team's keys."""
        for item in self.pages("/v1/keys"):
            yield parse(Key, item)

    def ready(self) -> bool:
        """Ask once whether the service is ready to work."""
        try:
            return self.http.get(f"{self.url}/healthz/ready", timeout=5.0).is_success
        except httpx.TransportError:
            return False

    @property
    def authorization(self) -> dict[str, str]:
        """The header that signs a request to the service itself."""
        return dict(self._headers)


def _waiting(seconds: float) -> dict[str, Any]:
    """Options of a GET that may take a while; the connection waits a little longer than the service does."""
    if seconds <= 0:
        return {}
    return {"headers": {"Prefer": f"wait={max(1, round(seconds))}"}, "timeout": seconds + 30.0}


def _server_sent(lines: Iterable[str]) -> Iterator[Event]:
    """Read `text/event-stream`: fields a line, an event a block, comments begin with a colon."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            if name:
                value = value.removeprefix(" ")
                fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value
            continue
        if "data" in fields and fields.get("id", "").isdigit():
            yield parse(Event, {**json.loads(fields["data"]), "type": fields.get("event", "message"), "seq": int(fields["id"])})
        fields = {}
