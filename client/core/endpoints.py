"""The methods that both clients have: which path, which body, what comes back. The one place that knows paths."""

import string
from collections.abc import Mapping, Sequence
from typing import Any, Unpack
from urllib.parse import quote

import httpx

from client import types
from client.core.device_endpoints import DeviceEndpoints
from client.core.drivers import Blocking, call, iterated, listed
from client.core.events import EventReader, LongPoll
from client.core.fields import (
    AuditFilter,
    JobFields,
    JobFilter,
    Kind,
    Question,
    Remedies,
    Scope,
    TargetFields,
    Uploaded,
    job_body,
)
from client.core.protocol import PATIENT, Content, Item, Listing, Request, Send, Steps, Stream, read_json
from client.core.requests import held as _held, ignored as _ignore, listing as _listing, request as _request
from client.errors import BadAnswer
from compression.schema.target_answer import By, TargetAnswer, TargetFront

UPLOADS: dict[Kind, type[types.Model] | type[types.Dataset]] = {"models": types.Model, "datasets": types.Dataset}
JOINING = 900.0
"""Seconds that the service may take to put a large file together."""
MANIFEST_PAGE = 1000
"""Files of a manifest in one request."""


def _job(job_id: str, wait: float = 0, seen: int | None = None, **options: Any) -> Request[types.Job]:
    return _request("GET", f"jobs/{job_id}", types.Job, params={"version": seen} if wait else {}, **_held(wait), **options)


def _recipes(tasks: Sequence[str]) -> Request[types.Recipes]:
    return _request("GET", "recipes", types.Recipes, params={"task": list(tasks)})


def _entries(files: Sequence[types.Manifest]) -> list[dict[str, Any]]:
    return [file.model_dump(include={"path", "size", "sha256"}) for file in files]


class Endpoints(DeviceEndpoints):
    """The service's interface. Raises Problem if the service refuses and Unreachable if it does not answer.

    What may be sent again is sent again with back-off: reads, uploads and deletes because they change nothing twice,
    creating POSTs because each carries an Idempotency-Key that stays the same over all attempts.
    """

    @call
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
    ) -> Request[httpx.Response]:
        """Send what has no method of its own and return the answer as it comes. Raises Problem and Unreachable."""
        options: dict[str, Any] = {"timeout": timeout, "repeatable": repeatable, "content": content}
        return Request(method, path, lambda response: response, params or {}, body, headers or {}, **options)

    @call
    def ready(self) -> Steps[bool]:
        """Ask once whether the service is ready to work."""
        answer = yield Send({"method": "GET", "url": f"{self.url}/healthz/ready", "timeout": 5.0})
        return isinstance(answer, httpx.Response) and answer.is_success

    # Models and datasets

    @call
    def create_upload(self, kind: Kind, body: Mapping[str, Any], files: Sequence[types.Manifest]) -> Steps[Uploaded]:
        """Promise the files of a new model or dataset, in as many pages as they take."""
        first, rest = files[:MANIFEST_PAGE], files[MANIFEST_PAGE:]
        later = {"rest": {"files": len(rest), "bytes": sum(file.size for file in rest)}} if rest else {}
        made = yield from _request("POST", kind, UPLOADS[kind], {**body, "files": _entries(first), **later}).steps(self)
        yield from self._add_files(kind, made.id, rest)
        return made

    @call
    def add_files(self, kind: Kind, upload_id: str, files: Sequence[types.Manifest]) -> Steps[None]:
        """Promise further files of a manifest that was created with less than all; what is promised already does no harm."""
        yield from self._add_files(kind, upload_id, files)

    def _add_files(self, kind: Kind, upload_id: str, files: Sequence[types.Manifest]) -> Steps[None]:
        for start in range(0, len(files), MANIFEST_PAGE):
            body = {"files": _entries(files[start : start + MANIFEST_PAGE])}
            yield from Request("POST", f"/v1/{kind}/{upload_id}/files", _ignore, body=body).steps(self)

    @listed
    def files(self, kind: Kind, upload_id: str) -> Listing[types.File]:
        """Return all files of a model or dataset: `upload` has the first 1,000."""
        return _listing(f"{kind}/{upload_id}/files", types.File, page_size=MANIFEST_PAGE)

    @call
    def put_file(self, kind: Kind, upload_id: str, file: types.Manifest, content: Content) -> Request[None]:
        """Send one file's bytes."""
        headers = {"Content-Length": str(file.size), "Content-Type": "application/octet-stream"}
        path = f"/v1/{kind}/{upload_id}/files/{quote(file.path)}"
        return Request("PUT", path, _ignore, headers=headers, content=content)

    @call
    def offset(self, kind: Kind, upload_id: str, path: str) -> Request[int]:
        """Return how many bytes of a file have arrived."""

        def take(response: httpx.Response) -> int:
            found = response.headers.get("upload-offset", "")
            if not found.isdigit():
                raise BadAnswer(f"{response.url} does not say how much of {path} has come")
            return int(found)

        return Request("HEAD", f"/v1/{kind}/{upload_id}/files/{quote(path)}", take)

    @call
    def append(self, kind: Kind, upload_id: str, file: types.Manifest, start: int, content: Content) -> Request[bool]:
        """Send a file from a byte on, once; return whether it is whole. Raises Problem and Unreachable.

        Not repeatable: what arrived before it broke is kept, and the next attempt begins elsewhere.
        """
        headers = {"Content-Length": str(file.size - start), "Content-Type": "application/partial-upload"}
        headers["Upload-Offset"] = str(start)
        path = f"/v1/{kind}/{upload_id}/files/{quote(file.path)}"
        # With the last byte the service puts the file together, which takes as long as a copy.
        options: dict[str, Any] = {"repeatable": False, "timeout": JOINING, "content": content}
        return Request("PATCH", path, lambda answer: bool(read_json(answer).get("uploaded")), headers=headers, **options)

    @call
    def complete(self, kind: Kind, upload_id: str) -> Request[Uploaded]:
        """Tell the service that all files are there; it checks them."""
        return _request("POST", f"{kind}/{upload_id}/complete", UPLOADS[kind])

    @call
    def upload(self, kind: Kind, upload_id: str, *, wait: float = 0) -> Request[Uploaded]:
        """Return a model or dataset; with `wait`, once its check has ended or the seconds are over."""
        return _request("GET", f"{kind}/{upload_id}", UPLOADS[kind], **_held(wait))

    @iterated
    def uploads(self, kind: Kind) -> Listing[Uploaded]:
        """Yield all models or datasets of the team."""
        return _listing(kind, UPLOADS[kind])

    @call
    def delete(self, path: str) -> Request[None]:
        """DELETE the path under /v1: `models/mdl_…`, `jobs/job_…`, `keys/…`."""
        return Request("DELETE", f"/v1/{path}", _ignore)

    # Jobs

    @call
    def preflight(self, body: Mapping[str, Any] | None = None, /, **fields: Unpack[JobFields]) -> Request[types.Preflight]:
        """Check a job without creating it: what it would become and cost."""
        sent = job_body(fields) if body is None else body
        return _request("POST", "jobs", types.Preflight, sent, params={"validate_only": "true"})

    @call
    def submit(
        self, body: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Unpack[JobFields]
    ) -> Request[types.Job]:
        """Create a job. Once this returns, the job is stored and will reach exactly one outcome.

        From `fields`, or from a `body` as POST /v1/jobs takes it. With an `idempotency_key` of your own, the same call
        later, also in another process, returns the same job.
        """
        # A header has ASCII alone: other signs are sent as a path has them.
        headers = {"Idempotency-Key": quote(idempotency_key, safe=string.punctuation + " ")} if idempotency_key else {}
        return _request("POST", "jobs", types.Job, job_body(fields) if body is None else body, headers=headers)

    @call
    def job(self, job_id: str, *, wait: float = 0, seen: int | None = None) -> Request[types.Job]:
        """Return a job; with `wait`, as soon as it is past the version that was `seen`, or when the seconds are over."""
        return _job(job_id, wait, seen)

    @iterated
    def jobs(self, **wanted: Unpack[JobFilter]) -> Listing[types.Job]:
        """Yield the team's jobs, newest first."""
        return _listing("jobs", types.Job, **wanted)

    @call
    def cancel(self, job_id: str) -> Request[types.Job]:
        """Ask a job to stop."""
        return _request("POST", f"jobs/{job_id}/cancel", types.Job)

    @call
    def retry(self, job_id: str, *, remedies: Remedies = (), profile: str | None = None) -> Request[types.Job]:
        """Create a new job from an ended one, with those of its `remedies` applied that are named, or "all".

        profile: the id of a profile of one of its artifacts, whose changes are applied instead, all if none is named.
        """
        named = remedies if remedies == "all" else list(remedies)
        body = ({"remedies": named} if named else {}) | ({"profile": profile} if profile else {})
        return _request("POST", f"jobs/{job_id}/retry", types.Job, body or None)

    @call
    def ask(self, job_id: str, *, timeout: float = 120.0, **question: Unpack[Question]) -> Steps[types.Try]:
        """Ask a finished job's models, before and after, the same thing; return both answers. Raises WaitedTooLong."""
        poll, path = LongPoll(timeout), f"jobs/{job_id}/try"
        body = {name: value for name, value in question.items() if value is not None}
        found = yield from _request("POST", path, types.Try, body, **_held(poll.begin())).steps(self)
        while not found.ended:
            found = yield from _request("GET", f"{path}/{found.id}", types.Try, **_held(poll.ask(found))).steps(self)
            yield poll.rest(changed=found.ended)
        return found

    @call
    def target(self, job_id: str, **targets: Unpack[TargetFields]) -> Request[TargetAnswer]:
        """Return what a cut of a finished job's model to other targets would come to, by its error tables. Trains nothing.

        Raises Problem: no_tables if the job was not solved for, and no_answer if the solver takes too long.
        """
        asked = {name: value for name, value in targets.items() if value is not None}
        return _request("POST", f"jobs/{job_id}/targets", TargetAnswer, asked)

    @call
    def front(
        self, job_id: str, *, by: By = "parameters", device_table: str | None = None, part: str = ""
    ) -> Request[TargetFront]:
        """Return the cuts of a finished job's model that err least, from mild to deep. Raises as `target` does."""
        params = {"by": by, "part": part} | ({"device_table": device_table} if device_table else {})
        return _request("GET", f"jobs/{job_id}/targets", TargetFront, params=params)

    @call
    def report(self, job_id: str) -> Request[types.Report]:
        """Return the whole result of a job that succeeded."""
        return _request("GET", f"jobs/{job_id}/report", types.Report)

    @call
    def report_page(self, job_id: str) -> Request[bytes]:
        """Return the report as one HTML file, which needs no network."""
        path, headers = f"/v1/jobs/{job_id}/report.html", {"Accept": "text/html"}
        return Request("GET", path, lambda response: response.content, headers=headers)

    @call
    def share(self, job_id: str, *, days: float = 7) -> Steps[types.Share]:
        """Make a link that shows a job's report without a key, for so many days. It is shown this once."""
        body = {"expires_in": round(days * 86400)}
        made = yield from _request("POST", f"jobs/{job_id}/share", types.Share, body, repeatable=False).steps(self)
        return made.under(self.url)

    @listed
    def shares(self, job_id: str | None = None) -> Listing[types.Share]:
        """Return the links in force, of a job or of the team; `delete("jobs/JOB/share/ID")` revokes one."""
        return _listing("shares" if job_id is None else f"jobs/{job_id}/share", types.Share)

    @call
    def artifact(self, artifact_id: str) -> Request[types.Artifact]:
        """Return an artifact with its files."""
        return _request("GET", f"artifacts/{artifact_id}", types.Artifact)

    @listed
    def artifacts(self, job_id: str) -> Listing[types.Artifact]:
        """Return the artifacts of a job."""
        return _listing(f"jobs/{job_id}/artifacts", types.Artifact)

    @iterated
    def events(self, job_id: str, *, after: int = 0) -> Listing[types.Event]:
        """Yield the events so far whose seq is greater than `after`."""
        return _listing(f"jobs/{job_id}/events", types.Event, after=after)

    @iterated
    def follow(self, job_id: str, *, after: int = 0) -> Stream[types.Event]:
        """Yield events as they happen until the job has ended. A broken stream is resumed where it broke."""
        reader = EventReader(job_id, after)
        while True:
            yield reader.stream(self)
            # The service may be on its way up again.
            if (yield from _job(job_id, attempts=PATIENT).steps(self)).ended:
                yield from _listing(f"jobs/{job_id}/events", types.Event, after=reader.after).steps(self)
                return
            yield reader.again()

    def _changes(self, job_id: str, timeout: float | None) -> Steps[types.Job]:
        poll, job = LongPoll(timeout), (yield from _job(job_id).steps(self))
        yield Item(job)
        while not job.ended:
            before, job = job, (yield from _job(job_id, poll.ask(job), job.version).steps(self))
            if job.version != before.version:
                yield Item(job)
            yield poll.rest(changed=job.version != before.version)
        return job

    @iterated
    def watch(self, job_id: str, *, timeout: float | None = None) -> Stream[types.Job]:
        """Yield the job as it is, and again each time that it has changed, until it has ended. Raises WaitedTooLong."""
        return self._changes(job_id, timeout)

    @call
    def wait(self, job_id: str, *, timeout: float | None = None) -> Steps[types.Job]:
        """Return the job once it has ended, with any outcome. Raises WaitedTooLong after `timeout` seconds."""
        return self._changes(job_id, timeout)

    # Recipes, workers and usage

    @call
    def all_recipes(self, *, tasks: Sequence[str] = ()) -> Request[types.Recipes]:
        """Return the recipes that have a name, as `recipes` does, and the JSON schema of all recipes."""
        return _recipes(tasks)

    @call
    def recipes(self, *, tasks: Sequence[str] = ()) -> Steps[list[types.Preset]]:
        """Return the recipes that have a name, each as a job on data of these tasks gets it; without tasks, as for texts."""
        return list((yield from _recipes(tasks).steps(self)).items)

    @call
    def check_recipe(self, recipe: Mapping[str, Any], *, tasks: Sequence[str] = ()) -> Request[types.CheckedRecipe]:
        """Check a recipe by itself and return it in full: a preset as a job on data of these tasks gets it. Raises Problem,
        whose `param` is the wrong key.
        """
        return _request("POST", "recipes/check", types.CheckedRecipe, recipe, params={"task": list(tasks)})

    @listed
    def families(self) -> Listing[dict[str, Any]]:
        """Return the model families that can be pruned, and their limits."""
        return Listing("/v1/families", dict)

    @listed
    def workers(self) -> Listing[types.Worker]:
        """Return the workers."""
        return _listing("workers", types.Worker)

    @call
    def queue(self) -> Request[types.Queue]:
        """Return how many jobs wait and run, of all teams."""
        return _request("GET", "queue", types.Queue)

    @call
    def usage(self, *, days: int = 30) -> Request[types.Usage]:
        """Return what the caller's team used, and all others together."""
        return _request("GET", "usage", types.Usage, params={"days": days})

    @call
    def quotas(self) -> Request[types.Quotas]:
        """Return the team's limits, and how much of each is used."""
        return _request("GET", "quotas", types.Quotas)

    # Keys and teams. A secret is shown once, so the service stores no answer that could be replayed: these are sent once.

    @call
    def create_key(self, name: str, *, scope: Scope = "write", expires_in: int | None = None) -> Request[types.NewKey]:
        """Make another key, which ends after `expires_in` seconds, if given. It is shown this once; only admins may."""
        body = {"name": name, "scope": scope, "expires_in": expires_in}
        return _request("POST", "keys", types.NewKey, body, repeatable=False)

    @call
    def rotate_key(self, key_id: str, *, overlap: int = 24 * 3600, expires_in: int | None = None) -> Request[types.NewKey]:
        """Replace a key, which works for `overlap` seconds more. The new one is shown this once; only admins may."""
        body = {"overlap": overlap, "expires_in": expires_in}
        return _request("POST", f"keys/{key_id}/rotate", types.NewKey, body, repeatable=False)

    @iterated
    def keys(self) -> Listing[types.Key]:
        """Yield the team's keys."""
        return _listing("keys", types.Key)

    @call
    def create_team(self, name: str) -> Request[types.Team]:
        """Make a team and its first key, an admin's, shown this once; only admins of the team that runs the service may."""
        return _request("POST", "teams", types.Team, {"name": name}, repeatable=False)

    @call
    def rename_team(self, team_id: str, name: str) -> Request[types.Team]:
        """Give a team another name."""
        return _request("PATCH", f"teams/{team_id}", types.Team, {"name": name})

    @listed
    def teams(self) -> Listing[types.Team]:
        """Return your own team, or all teams for an admin of the team that runs the service."""
        return _listing("teams", types.Team)

    @iterated
    def audit(self, **asked: Unpack[AuditFilter]) -> Listing[types.AuditEntry]:
        """Yield what the team's keys changed or were refused, newest first; only admins may ask."""
        return _listing("audit", types.AuditEntry, **asked)


class Service(Blocking, Endpoints):
    """The blocking client without files, as transfers use it."""
