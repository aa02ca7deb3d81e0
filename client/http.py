"""The service's HTTP interface as typed calls, one at a time. One object, one service, safe to share between threads.

What may be sent again is sent again with back-off: reads, uploads and deletes because they change nothing twice, creating
POSTs because each carries an Idempotency-Key that stays the same over all attempts.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from client import calls
from client.calls import AuditFilter, JobFields, JobFilter, Kind, Question, Remedies, Scope
from client.following import Following, Waiting
from client.types import (
    Artifact,
    AuditEntry,
    CheckedRecipe,
    Dataset,
    Event,
    Job,
    Key,
    Manifest,
    Model,
    NewKey,
    Preflight,
    Preset,
    Queue,
    Quotas,
    Recipes,
    Report,
    Share,
    Team,
    Try,
    Usage,
    Worker,
)
from client.wire import Call, Listing, Peer

Content = Callable[[], Iterable[bytes]]
"""Gives the body anew for each attempt."""
R = TypeVar("R")


class Service(Peer):
    """A service, and the key that says who asks. Raises Problem where it refuses and Unreachable where it does not answer."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 60.0, attempts: int = 5, client: httpx.Client | None = None
    ) -> None:
        super().__init__(url, key, timeout=timeout, attempts=attempts)
        # Redirects are followed by hand (download.py), because a presigned URL must not see our key.
        self.http = client or httpx.Client(timeout=self.limit(), follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    # Requests

    def send(self, call: Call[R], content: Content | None = None) -> R:
        """Send until an answer comes that is not worth another attempt. Raises Problem and Unreachable."""
        options, tries = self.options(call), self.tries(call)
        while True:
            try:
                response = self.http.request(**options, content=content() if content else None)
            except httpx.TransportError as error:
                wait = tries.broke(error)
            else:
                if response.is_success:
                    return call.take(response)
                wait = tries.refused(response)
            time.sleep(wait)

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
        """Send what has no method of its own and return the answer as it comes. Raises Problem and Unreachable."""
        call = Call(
            method,
            path,
            lambda response: response,
            params=params or {},
            body=body,
            headers=headers or {},
            timeout=timeout,
            repeatable=repeatable,
        )
        return self.send(call, content)

    def pages(self, listing: Listing[R]) -> Iterator[R]:
        """Yield the items of a list, page after page."""
        token: str | None = None
        while True:
            items, token = self.send(listing.page(token))
            yield from items
            if not token:
                return

    # Models and datasets

    def create_upload(self, kind: Kind, body: Mapping[str, Any], files: Sequence[Manifest]) -> Model | Dataset:
        """Promise the files of a new model or dataset."""
        return self.send(calls.create_upload(kind, body, files))

    def put_file(self, kind: Kind, upload_id: str, file: Manifest, content: Content) -> None:
        """Send one file's bytes."""
        self.send(calls.put_file(kind, upload_id, file), content)

    def offset(self, kind: Kind, upload_id: str, path: str) -> int:
        """Return how many bytes of a file have come."""
        return self.send(calls.offset(kind, upload_id, path))

    def append(self, kind: Kind, upload_id: str, file: Manifest, start: int, content: Content) -> bool:
        """Send a file from a byte on, once; say whether it is whole. Raises Problem and Unreachable."""
        return self.send(calls.append(kind, upload_id, file, start), content)

    def complete(self, kind: Kind, upload_id: str) -> Model | Dataset:
        """Say that all files are there; the service checks them."""
        return self.send(calls.complete(kind, upload_id))

    def upload(self, kind: Kind, upload_id: str, *, wait: float = 0) -> Model | Dataset:
        """Return a model or dataset, if asked to once its check has ended or `wait` seconds are over."""
        return self.send(calls.upload(kind, upload_id, wait))

    def uploads(self, kind: Kind) -> Iterator[Model | Dataset]:
        """Yield all models or datasets of the team."""
        return self.pages(calls.uploads(kind))

    def delete(self, path: str) -> None:
        """DELETE what the path under /v1 names: `models/mdl_…`, `jobs/job_…`, `keys/…`."""
        self.send(calls.delete(path))

    # Jobs

    def preflight(self, body: Mapping[str, Any] | None = None, /, **fields: Unpack[JobFields]) -> Preflight:
        """Check a job without creating it: what it would become and cost."""
        return self.send(calls.preflight(body, fields))

    def submit(
        self, body: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Unpack[JobFields]
    ) -> Job:
        """Create a job. Once this returns, the job is stored and will reach exactly one outcome.

        Of `fields`, or a `body` as POST /v1/jobs takes it. With an `idempotency_key` of your own the same call later, in
        another process too, answers the same job.
        """
        return self.send(calls.submit(body, fields, idempotency_key))

    def job(self, job_id: str, *, wait: float = 0, seen: int | None = None) -> Job:
        """Return a job; with `wait`, as soon as it is past the version that was `seen`, or when the seconds are over."""
        return self.send(calls.job(job_id, wait, seen))

    def jobs(self, **wanted: Unpack[JobFilter]) -> Iterator[Job]:
        """Yield the team's jobs, newest first."""
        return self.pages(calls.jobs(wanted))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop."""
        return self.send(calls.cancel(job_id))

    def retry(self, job_id: str, *, remedies: Remedies = ()) -> Job:
        """Make a new job out of an ended one, with those of its `remedies` applied that are named, or "all"."""
        return self.send(calls.retry(job_id, remedies))

    def ask(self, job_id: str, *, timeout: float = 120.0, **question: Unpack[Question]) -> Try:
        """Ask a finished job's models, before and after, the same thing; return both answers. Raises WaitedTooLong."""
        waiting = Waiting(timeout)
        found = self.send(calls.ask(job_id, question, waiting.begin()))
        while not found.ended:
            found = self.send(calls.asked(job_id, found.id, waiting.ask(found)))
            time.sleep(waiting.rest(changed=found.ended))
        return found

    def report(self, job_id: str) -> Report:
        """Return the whole result of a job that succeeded."""
        return self.send(calls.report(job_id))

    def report_page(self, job_id: str) -> bytes:
        """Return the report as one HTML file, which needs no network."""
        return self.send(calls.report_page(job_id))

    def share(self, job_id: str, *, days: float = 7) -> Share:
        """Make a link that shows a job's report without a key, for so many days. It is shown this once."""
        return self.send(calls.share(job_id, round(days * 86400))).under(self.url)

    def shares(self, job_id: str | None = None) -> list[Share]:
        """Return the links in force, of a job or of the team; `delete("jobs/JOB/share/ID")` revokes one."""
        return list(self.pages(calls.shares(job_id)))

    def artifacts(self, job_id: str) -> list[Artifact]:
        """Return what a job made."""
        return list(self.pages(calls.artifacts(job_id)))

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield the events so far whose seq is greater than `after`."""
        return self._rest(Following(job_id, after))

    def _rest(self, reader: Following) -> Iterator[Event]:
        """Read by pages what the reader has not seen."""
        for event in self.pages(calls.events(reader.job_id, reader.after)):
            if reader.told(event):
                yield event

    @contextmanager
    def _stream(self, reader: Following) -> Iterator[httpx.Response]:
        # The service sends a comment every few seconds; a silence longer than the limit is a dead connection.
        headers = {**self.authorization, **reader.headers}
        with self.http.stream("GET", self.url + reader.path, headers=headers, timeout=self.limit()) as response:
            if not response.is_success:
                response.read()
            yield response

    def follow(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield events as they happen until the job has ended. A broken stream is taken up where it broke."""
        reader = Following(job_id, after)
        while True:
            try:
                with self._stream(reader) as response:
                    if reader.open(response):
                        for line in response.iter_lines():
                            if event := reader.feed(line):
                                yield event
            except httpx.TransportError:
                pass  # taken up again below, or reported there
            if self.send(calls.followed(job_id)).ended:
                yield from self._rest(reader)
                return
            time.sleep(reader.again())

    def watch(self, job_id: str, *, timeout: float | None = None) -> Iterator[Job]:
        """Yield the job as it is, and again each time that it has changed, until it has ended. Raises WaitedTooLong."""
        waiting, job = Waiting(timeout), self.job(job_id)
        yield job
        while not job.ended:
            before, job = job, self.job(job_id, wait=waiting.ask(job), seen=job.version)
            if job.version != before.version:
                yield job
            time.sleep(waiting.rest(changed=job.version != before.version))

    def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Return the job once it has ended, however it ended. Raises WaitedTooLong after `timeout` seconds."""
        for job in self.watch(job_id, timeout=timeout):  # noqa: B007 - the last one is what we want
            pass
        return job

    # The rest

    def all_recipes(self) -> Recipes:
        """Return the recipes that have a name, and the JSON schema of all recipes."""
        return self.send(calls.recipes())

    def recipes(self) -> list[Preset]:
        """Return the recipes that have a name."""
        return list(self.all_recipes().items)

    def check_recipe(self, recipe: Mapping[str, Any]) -> CheckedRecipe:
        """Have a recipe checked by itself; it comes back whole. Raises Problem, whose `param` is the wrong key."""
        return self.send(calls.check_recipe(recipe))

    def families(self) -> list[dict[str, Any]]:
        """Return the model families that can be taken apart, and their limits."""
        return list(self.pages(calls.families()))

    def workers(self) -> list[Worker]:
        """Return who works."""
        return list(self.pages(calls.workers()))

    def queue(self) -> Queue:
        """Say how many jobs wait and run, of all teams."""
        return self.send(calls.queue())

    def usage(self, *, days: int = 30) -> Usage:
        """Say what the caller's team used, and all others together."""
        return self.send(calls.usage(days))

    def quotas(self) -> Quotas:
        """Say what your team may take of the service, and takes."""
        return self.send(calls.quotas())

    def create_key(self, name: str, *, scope: Scope = "write", expires_in: int | None = None) -> NewKey:
        """Make another key, which ends after `expires_in` seconds, if at all. It is shown this once; only admins may."""
        return self.send(calls.create_key(name, scope, expires_in))

    def rotate_key(self, key_id: str, *, overlap: int = 24 * 3600, expires_in: int | None = None) -> NewKey:
        """Make a key in the place of one, which works for `overlap` seconds more. It is shown this once; only admins may."""
        return self.send(calls.rotate_key(key_id, overlap, expires_in))

    def keys(self) -> Iterator[Key]:
        """Yield the team's keys."""
        return self.pages(calls.keys())

    def create_team(self, name: str) -> Team:
        """Make a team and its first key, an admin's, shown this once; only admins of the team that runs the service may."""
        return self.send(calls.create_team(name))

    def rename_team(self, team_id: str, name: str) -> Team:
        """Give a team another name."""
        return self.send(calls.rename_team(team_id, name))

    def teams(self) -> list[Team]:
        """Return one's own team, or all for an admin of the one that runs the service."""
        return list(self.pages(calls.teams()))

    def audit(self, **asked: Unpack[AuditFilter]) -> Iterator[AuditEntry]:
        """Yield what the team's keys changed or were refused, newest first; only admins may ask."""
        return self.pages(calls.audit(asked))

    def ready(self) -> bool:
        """Ask once whether the service is ready to work."""
        try:
            return self.http.get(f"{self.url}/healthz/ready", timeout=5.0).is_success
        except httpx.TransportError:
            return False
