"""The client in async form: the same calls, awaited. It shares all but the transport with http.py.

Files are hashed, sent and fetched by the sync client's threads, since disks do not await; all else runs on the event loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from client import calls
from client.api import Lathe, Place
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
from client.upload import Moved
from client.wire import Call, Listing, Peer

R = TypeVar("R")


class AsyncLathe(Peer):
    """As Lathe, for asyncio: `async with AsyncLathe.from_config() as lathe: job = await lathe.submit(…)`."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        attempts: int = 5,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(url, key, timeout=timeout, attempts=attempts)
        self.http = client or httpx.AsyncClient(timeout=self.limit(), follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self.http.aclose()

    # Requests

    async def send(self, call: Call[R]) -> R:
        """Send until an answer comes that is not worth another attempt. Raises Problem and Unreachable."""
        options, tries = self.options(call), self.tries(call)
        while True:
            try:
                response = await self.http.request(**options)
            except httpx.TransportError as error:
                wait = tries.broke(error)
            else:
                if response.is_success:
                    return call.take(response)
                wait = tries.refused(response)
            await asyncio.sleep(wait)

    async def pages(self, listing: Listing[R]) -> AsyncIterator[R]:
        """Yield the items of a list, page after page."""
        token: str | None = None
        while True:
            items, token = await self.send(listing.page(token))
            for item in items:
                yield item
            if not token:
                return

    # Models and datasets

    async def _in_thread(self, work: Callable[[Lathe, Moved], R], moved: Moved | None) -> R:
        """Let the sync client do it in a thread. Where the task is cancelled, the transfer ends with its next megabyte."""
        stop = threading.Event()

        def told(path: str, amount: int) -> None:
            if stop.is_set():
                raise InterruptedError("cancelled")
            if moved:
                moved(path, amount)

        def run() -> R:
            with Lathe(self.url, self.key, timeout=self.timeout, attempts=self.attempts) as lathe:
                return work(lathe, told)

        try:
            return await asyncio.to_thread(run)
        finally:
            stop.set()

    async def add_model(
        self, folder: Place, name: str | None = None, *, moved: Moved | None = None, timeout: float = 900.0
    ) -> Model:
        """See Lathe.add_model."""
        return await self._in_thread(lambda lathe, told: lathe.add_model(folder, name, moved=told, timeout=timeout), moved)

    async def add_dataset(
        self,
        place: Place,
        name: str | None = None,
        *,
        task: str = "text-classification",
        columns: Mapping[str, str] | None = None,
        moved: Moved | None = None,
        timeout: float = 900.0,
    ) -> Dataset:
        """See Lathe.add_dataset."""
        return await self._in_thread(
            lambda lathe, told: lathe.add_dataset(place, name, task=task, columns=columns, moved=told, timeout=timeout), moved
        )

    async def download(self, what: Job | Artifact | str, folder: Place, *, moved: Moved | None = None) -> list[Path]:
        """See Lathe.download."""
        return await self._in_thread(lambda lathe, told: lathe.download(what, folder, moved=told), moved)

    async def upload(self, kind: Kind, upload_id: str, *, wait: float = 0) -> Model | Dataset:
        """Return a model or dataset, if asked to once its check has ended or `wait` seconds are over."""
        return await self.send(calls.upload(kind, upload_id, wait))

    def uploads(self, kind: Kind) -> AsyncIterator[Model | Dataset]:
        """Yield all models or datasets of the team."""
        return self.pages(calls.uploads(kind))

    async def delete(self, path: str) -> None:
        """DELETE what the path under /v1 names: `models/mdl_…`, `jobs/job_…`, `keys/…`."""
        await self.send(calls.delete(path))

    # Jobs

    async def preflight(self, body: Mapping[str, Any] | None = None, /, **fields: Unpack[JobFields]) -> Preflight:
        """Check a job without creating it: what it would become and cost."""
        return await self.send(calls.preflight(body, fields))

    async def submit(
        self, body: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Unpack[JobFields]
    ) -> Job:
        """Create a job. See Lathe.submit."""
        return await self.send(calls.submit(body, fields, idempotency_key))

    async def job(self, job_id: str, *, wait: float = 0, seen: int | None = None) -> Job:
        """Return a job; with `wait`, as soon as it is past the version that was `seen`, or when the seconds are over."""
        return await self.send(calls.job(job_id, wait, seen))

    def jobs(self, **wanted: Unpack[JobFilter]) -> AsyncIterator[Job]:
        """Yield the team's jobs, newest first."""
        return self.pages(calls.jobs(wanted))

    async def cancel(self, job_id: str) -> Job:
        """Ask a job to stop."""
        return await self.send(calls.cancel(job_id))

    async def retry(self, job_id: str, *, remedies: Remedies = ()) -> Job:
        """Make a new job out of an ended one, with those of its `remedies` applied that are named, or "all"."""
        return await self.send(calls.retry(job_id, remedies))

    async def ask(self, job_id: str, *, timeout: float = 120.0, **question: Unpack[Question]) -> Try:
        """Ask a finished job's models, before and after, the same thing; return both answers. Raises WaitedTooLong."""
        waiting = Waiting(timeout)
        found = await self.send(calls.ask(job_id, question, waiting.begin()))
        while not found.ended:
            found = await self.send(calls.asked(job_id, found.id, waiting.ask(found)))
            await asyncio.sleep(waiting.rest(changed=found.ended))
        return found

    async def report(self, job_id: str) -> Report:
        """Return the whole result of a job that succeeded."""
        return await self.send(calls.report(job_id))

    async def report_page(self, job_id: str) -> bytes:
        """Return the report as one HTML file, which needs no network."""
        return await self.send(calls.report_page(job_id))

    async def share(self, job_id: str, *, days: float = 7) -> Share:
        """Make a link that shows a job's report without a key, for so many days. It is shown this once."""
        return (await self.send(calls.share(job_id, round(days * 86400)))).under(self.url)

    async def shares(self, job_id: str | None = None) -> list[Share]:
        """Return the links in force, of a job or of the team; `delete("jobs/JOB/share/ID")` revokes one."""
        return [link async for link in self.pages(calls.shares(job_id))]

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """Return what a job made."""
        return [artifact async for artifact in self.pages(calls.artifacts(job_id))]

    def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield the events so far whose seq is greater than `after`."""
        return self._rest(Following(job_id, after))

    async def _rest(self, reader: Following) -> AsyncIterator[Event]:
        async for event in self.pages(calls.events(reader.job_id, reader.after)):
            if reader.told(event):
                yield event

    @asynccontextmanager
    async def _stream(self, reader: Following) -> AsyncIterator[httpx.Response]:
        headers = {**self.authorization, **reader.headers}
        async with self.http.stream("GET", self.url + reader.path, headers=headers, timeout=self.limit()) as response:
            if not response.is_success:
                await response.aread()
            yield response

    async def follow(self, job_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield events as they happen until the job has ended. A broken stream is taken up where it broke."""
        reader = Following(job_id, after)
        while True:
            try:
                async with self._stream(reader) as response:
                    if reader.open(response):
                        async for line in response.aiter_lines():
                            if event := reader.feed(line):
                                yield event
            except httpx.TransportError:
                pass  # taken up again below, or reported there
            if (await self.send(calls.followed(job_id))).ended:
                async for event in self._rest(reader):
                    yield event
                return
            await asyncio.sleep(reader.again())

    async def watch(self, job_id: str, *, timeout: float | None = None) -> AsyncIterator[Job]:
        """Yield the job as it is, and again each time that it has changed, until it has ended. Raises WaitedTooLong."""
        waiting, job = Waiting(timeout), await self.job(job_id)
        yield job
        while not job.ended:
            before, job = job, await self.job(job_id, wait=waiting.ask(job), seen=job.version)
            if job.version != before.version:
                yield job
            await asyncio.sleep(waiting.rest(changed=job.version != before.version))

    async def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Return the job once it has ended, however it ended. Raises WaitedTooLong after `timeout` seconds."""
        async for job in self.watch(job_id, timeout=timeout):  # noqa: B007 - the last one is what we want
            pass
        return job

    # The rest

    async def all_recipes(self) -> Recipes:
        """Return the recipes that have a name, and the JSON schema of all recipes."""
        return await self.send(calls.recipes())

    async def recipes(self) -> list[Preset]:
        """Return the recipes that have a name."""
        return list((await self.all_recipes()).items)

    async def check_recipe(self, recipe: Mapping[str, Any]) -> CheckedRecipe:
        """Have a recipe checked by itself; it comes back whole. Raises Problem, whose `param` is the wrong key."""
        return await self.send(calls.check_recipe(recipe))

    async def families(self) -> list[dict[str, Any]]:
        """Return the model families that can be taken apart, and their limits."""
        return [family async for family in self.pages(calls.families())]

    async def workers(self) -> list[Worker]:
        """Return who works."""
        return [worker async for worker in self.pages(calls.workers())]

    async def queue(self) -> Queue:
        """Say how many jobs wait and run, of all teams."""
        return await self.send(calls.queue())

    async def usage(self, *, days: int = 30) -> Usage:
        """Say what the caller's team used, and all others together."""
        return await self.send(calls.usage(days))

    async def quotas(self) -> Quotas:
        """Say what your team may take of the service, and takes."""
        return await self.send(calls.quotas())

    async def create_key(self, name: str, *, scope: Scope = "write", expires_in: int | None = None) -> NewKey:
        """Make another key, which ends after `expires_in` seconds, if at all. It is shown this once; only admins may."""
        return await self.send(calls.create_key(name, scope, expires_in))

    async def rotate_key(self, key_id: str, *, overlap: int = 24 * 3600, expires_in: int | None = None) -> NewKey:
        """Make a key in the place of one, which works for `overlap` seconds more. It is shown this once; only admins may."""
        return await self.send(calls.rotate_key(key_id, overlap, expires_in))

    def keys(self) -> AsyncIterator[Key]:
        """Yield the team's keys."""
        return self.pages(calls.keys())

    async def create_team(self, name: str) -> Team:
        """Make a team and its first key, an admin's, shown this once; only admins of the team that runs the service may."""
        return await self.send(calls.create_team(name))

    async def rename_team(self, team_id: str, name: str) -> Team:
        """Give a team another name."""
        return await self.send(calls.rename_team(team_id, name))

    async def teams(self) -> list[Team]:
        """Return one's own team, or all for an admin of the one that runs the service."""
        return [one async for one in self.pages(calls.teams())]

    def audit(self, **asked: Unpack[AuditFilter]) -> AsyncIterator[AuditEntry]:
        """Yield what the team's keys changed or were refused, newest first; only admins may ask."""
        return self.pages(calls.audit(asked))
