"""Every request that the service takes, as a pure function to a `Call`: which path, which body, what comes back.

The one place that knows paths. Both clients send these; so can whoever needs one that has no method of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from client.errors import BadAnswer
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
    Queue,
    Quotas,
    Recipes,
    Report,
    Share,
    Team,
    Try,
    Usage,
    Worker,
    parse,
)
from client.wire import PATIENT, Call, Listing, as_, body_of, ignored
from compression.schema.recipe.recipe import Recipe

Kind = Literal["models", "datasets"]
Scope = Literal["admin", "write", "read", "device"]
UPLOADS: dict[Kind, type[Model] | type[Dataset]] = {"models": Model, "datasets": Dataset}
JOINING = 900.0
"""Seconds that the service may take to put a large file together."""
Remedies = Literal["all"] | Sequence[str]
"""Keys of a job's remedies, or all of them."""
STATES = ("queued", "running", "succeeded", "failed", "cancelled")


class JobFields(TypedDict, total=False):
    """What a job is made of. `model` and `data` are ids, or the objects that uploads returned."""

    model: str | Model
    data: str | Dataset | Sequence[str | Dataset]
    student: str | Model | None
    teachers: Sequence[str | Model]
    recipe: str | Mapping[str, Any] | Recipe
    name: str | None
    labels: Mapping[str, str]
    targets: Mapping[str, float]
    evaluate: Mapping[str, Any]
    priority: int
    deadline_seconds: int | None


class JobFilter(TypedDict, total=False):
    """What a list of jobs is narrowed down to; all that is given must hold."""

    state: str | Sequence[str] | None
    """Any of these."""
    label: str | Sequence[str] | None
    """`key:value`, all of these."""
    model: str | None
    search: str | None
    """Part of the name, the id or the owner."""


class AuditFilter(TypedDict, total=False):
    """What the audit log is narrowed down to; all that is given must hold."""

    key: str | None
    """Id of a key."""
    action: str | None
    """`jobs.cancel`, or a noun: `jobs`."""
    object: str | None
    """What it was done to, or what it made."""
    outcome: str | None
    """`ok`, or the code of a problem."""


class Question(TypedDict, total=False):
    """The texts of one row, as the task reads them, or the number of a row of the data."""

    text: str | None
    text_pair: str | None
    tokens: Sequence[str] | None
    question: str | None
    context: str | None
    row: int | None
    split: str
    part: str


def _id(given: str | Model | Dataset) -> str:
    return given if isinstance(given, str) else given.id


def job_body(fields: JobFields) -> dict[str, Any]:
    """Write a job as the service takes it; what is left out is the service's default."""
    given: dict[str, Any] = dict(fields)
    models: dict[str, Any] = {"base": _id(given.pop("model"))}
    if (student := given.pop("student", None)) is not None:
        models["student"] = _id(student)
    if teachers := given.pop("teachers", ()):
        models["teachers"] = [_id(teacher) for teacher in teachers]
    data = given.pop("data")
    datasets = [_id(data)] if isinstance(data, str | Dataset) else [_id(one) for one in data]
    if isinstance(recipe := given.get("recipe"), BaseModel):
        given["recipe"] = recipe.model_dump(mode="json")
    return {**given, "models": models, "datasets": datasets}


def _body(body: Mapping[str, Any] | None, fields: JobFields) -> Mapping[str, Any]:
    return job_body(fields) if body is None else body


def _waiting(seconds: float) -> dict[str, Any]:
    """Options of a GET that may take a while; the connection waits a little longer than the service does."""
    if seconds <= 0:
        return {}
    return {"headers": {"Prefer": f"wait={max(1, round(seconds))}"}, "timeout": seconds + 30.0, "attempts": PATIENT}


# Models and datasets


def create_upload(kind: Kind, body: Mapping[str, Any], files: Sequence[Manifest]) -> Call[Model | Dataset]:
    """Promise the files of a new model or dataset."""
    manifest = [file.model_dump(include={"path", "size", "sha256"}) for file in files]
    return Call("POST", f"/v1/{kind}", as_(UPLOADS[kind]), body={**body, "files": manifest})


def put_file(kind: Kind, upload_id: str, file: Manifest) -> Call[None]:
    """Send one file; the transport adds the bytes."""
    headers = {"Content-Length": str(file.size), "Content-Type": "application/octet-stream"}
    return Call("PUT", f"/v1/{kind}/{upload_id}/files/{quote(file.path)}", ignored, headers=headers)


def offset(kind: Kind, upload_id: str, path: str) -> Call[int]:
    """Ask how many bytes of a file have come."""

    def take(response: httpx.Response) -> int:
        found = response.headers.get("upload-offset", "")
        if not found.isdigit():
            raise BadAnswer(f"{response.url} does not say how much of {path} has come")
        return int(found)

    return Call("HEAD", f"/v1/{kind}/{upload_id}/files/{quote(path)}", take)


def append(kind: Kind, upload_id: str, file: Manifest, start: int) -> Call[bool]:
    """Send a file from a byte on; the transport adds the bytes. True once it is whole.

    Not repeatable: where it broke off, what came of it is kept, and the next one begins elsewhere.
    """
    headers = {"Content-Length": str(file.size - start), "Content-Type": "application/partial-upload"}
    headers["Upload-Offset"] = str(start)
    path = f"/v1/{kind}/{upload_id}/files/{quote(file.path)}"
    # With the last byte the service puts the file together, which takes as long as a copy.
    return Call("PATCH", path, _whole, headers=headers, repeatable=False, timeout=JOINING)


def _whole(response: httpx.Response) -> bool:
    return bool(body_of(response).get("uploaded"))


def complete(kind: Kind, upload_id: str) -> Call[Model | Dataset]:
    """Say that all files are there; the service checks them."""
    return Call("POST", f"/v1/{kind}/{upload_id}/complete", as_(UPLOADS[kind]))


def upload(kind: Kind, upload_id: str, wait: float = 0) -> Call[Model | Dataset]:
    """Ask for a model or dataset, if wanted once its check has ended or `wait` seconds are over."""
    return Call("GET", f"/v1/{kind}/{upload_id}", as_(UPLOADS[kind]), **_waiting(wait))


def uploads(kind: Kind) -> Listing[Model | Dataset]:
    """List all models or datasets of the team."""
    return Listing(f"/v1/{kind}", lambda item: parse(UPLOADS[kind], item))


def delete(path: str) -> Call[None]:
    """DELETE what the path under /v1 names."""
    return Call("DELETE", f"/v1/{path}", ignored)


# Jobs


def preflight(body: Mapping[str, Any] | None, fields: JobFields) -> Call[Preflight]:
    """Check a job without creating it: what it would become and cost."""
    return Call("POST", "/v1/jobs", as_(Preflight), params={"validate_only": "true"}, body=_body(body, fields))


def submit(body: Mapping[str, Any] | None, fields: JobFields, idempotency_key: str | None = None) -> Call[Job]:
    """Create a job. The same key and body again answer the same job, today or tomorrow."""
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return Call("POST", "/v1/jobs", as_(Job), body=_body(body, fields), headers=headers)


def job(job_id: str, wait: float = 0, seen: int | None = None) -> Call[Job]:
    """Ask for a job; with `wait`, as soon as it is past the version that was `seen`, or when the seconds are over."""
    return Call("GET", f"/v1/jobs/{job_id}", as_(Job), params={"version": seen} if wait else {}, **_waiting(wait))


def followed(job_id: str) -> Call[Job]:
    """Ask for a job whose event stream broke off, and be patient: the service may be on its way up again."""
    return Call("GET", f"/v1/jobs/{job_id}", as_(Job), attempts=PATIENT)


def jobs(wanted: JobFilter) -> Listing[Job]:
    """List the team's jobs that are wanted, newest first."""
    return Listing("/v1/jobs", lambda item: parse(Job, item), dict(wanted))


def cancel(job_id: str) -> Call[Job]:
    """Ask a job to stop."""
    return Call("POST", f"/v1/jobs/{job_id}/cancel", as_(Job))


def retry(job_id: str, remedies: Remedies = ()) -> Call[Job]:
    """Make a new job out of an ended one, with those of its remedies applied that are named."""
    named = remedies if remedies == "all" else list(remedies)
    return Call("POST", f"/v1/jobs/{job_id}/retry", as_(Job), body={"remedies": named} if named else None)


def ask(job_id: str, question: Question, wait: float) -> Call[Try]:
    """Ask a finished job's models, before and after, the same thing; a worker answers."""
    body = {name: value for name, value in question.items() if value is not None}
    return Call("POST", f"/v1/jobs/{job_id}/try", as_(Try), body=body, **_waiting(wait))


def asked(job_id: str, try_id: str, wait: float) -> Call[Try]:
    """Ask for the answer to a question."""
    return Call("GET", f"/v1/jobs/{job_id}/try/{try_id}", as_(Try), **_waiting(wait))


def report(job_id: str) -> Call[Report]:
    """Ask for the whole result of a job that succeeded."""
    return Call("GET", f"/v1/jobs/{job_id}/report", as_(Report))


def report_page(job_id: str) -> Call[bytes]:
    """Ask for the report as one HTML file, which needs no network."""
    return Call("GET", f"/v1/jobs/{job_id}/report.html", lambda response: response.content, headers={"Accept": "text/html"})


def share(job_id: str, expires_in: int) -> Call[Share]:
    """Make a link that shows a job's report without a key, for so many seconds. It is shown this once."""
    return Call("POST", f"/v1/jobs/{job_id}/share", as_(Share), body={"expires_in": expires_in}, repeatable=False)


def shares(job_id: str | None = None) -> Listing[Share]:
    """List the links that are in force, of a job or of the whole team."""
    path = "/v1/shares" if job_id is None else f"/v1/jobs/{job_id}/share"
    return Listing(path, lambda item: parse(Share, item))


def artifacts(job_id: str) -> Listing[Artifact]:
    """List what a job made."""
    return Listing(f"/v1/jobs/{job_id}/artifacts", lambda item: parse(Artifact, item))


def events(job_id: str, after: int = 0) -> Listing[Event]:
    """List the events so far whose seq is greater than `after`."""
    return Listing(f"/v1/jobs/{job_id}/events", lambda item: parse(Event, item), {"after": after})


# The rest


def recipes() -> Call[Recipes]:
    """Ask for the recipes that have a name, and the schema of all recipes."""
    return Call("GET", "/v1/recipes", as_(Recipes))


def check_recipe(recipe: Mapping[str, Any]) -> Call[CheckedRecipe]:
    """Have a recipe checked by itself; it comes back whole, with what it leaves out."""
    return Call("POST", "/v1/recipes/check", as_(CheckedRecipe), body=recipe)


def families() -> Listing[dict[str, Any]]:
    """List the model families that can be taken apart, and their limits."""
    return Listing("/v1/families", dict)


def workers() -> Listing[Worker]:
    """List who works."""
    return Listing("/v1/workers", lambda item: parse(Worker, item))


def queue() -> Call[Queue]:
    """Ask how many jobs wait and run, of all teams."""
    return Call("GET", "/v1/queue", as_(Queue))


def usage(days: int) -> Call[Usage]:
    """Ask what the caller's team used in the last so many days, and all others together."""
    return Call("GET", "/v1/usage", as_(Usage), params={"days": days})


def quotas() -> Call[Quotas]:
    """Ask what the team may take of the service, and takes."""
    return Call("GET", "/v1/quotas", as_(Quotas))


def create_key(name: str, scope: Scope, expires_in: int | None = None) -> Call[NewKey]:
    """Make another key. It is shown this once, so the service stores no answer that could be replayed."""
    body = {"name": name, "scope": scope, "expires_in": expires_in}
    return Call("POST", "/v1/keys", as_(NewKey), body=body, repeatable=False)


def rotate_key(key_id: str, overlap: int, expires_in: int | None = None) -> Call[NewKey]:
    """Make a key in the place of one, which works for `overlap` seconds more. It is shown this once."""
    body = {"overlap": overlap, "expires_in": expires_in}
    return Call("POST", f"/v1/keys/{key_id}/rotate", as_(NewKey), body=body, repeatable=False)


def keys() -> Listing[Key]:
    """List the team's keys."""
    return Listing("/v1/keys", lambda item: parse(Key, item))


def create_team(name: str) -> Call[Team]:
    """Make a team and its first key, an admin's, which is shown this once."""
    return Call("POST", "/v1/teams", as_(Team), body={"name": name}, repeatable=False)


def rename_team(team_id: str, name: str) -> Call[Team]:
    """Give a team another name."""
    return Call("PATCH", f"/v1/teams/{team_id}", as_(Team), body={"name": name})


def teams() -> Listing[Team]:
    """List teams: all for an admin of the one that runs the service, else one's own."""
    return Listing("/v1/teams", lambda item: parse(Team, item))


def audit(asked: AuditFilter) -> Listing[AuditEntry]:
    """List what the team's keys changed or were refused, newest first."""
    return Listing("/v1/audit", lambda item: parse(AuditEntry, item), asked)


def audit_csv(asked: AuditFilter, token: str | None = None) -> Call[tuple[str, str | None]]:
    """Ask for a page of the same as a table with a line of names above; beside it the token of the next page."""

    def take(response: httpx.Response) -> tuple[str, str | None]:
        following = response.links.get("next", {}).get("url")
        return response.text, httpx.URL(following).params.get("page_token") if following else None

    return Call("GET", "/v1/audit", take, {**asked, "format": "csv", "page_size": 200, "page_token": token})
