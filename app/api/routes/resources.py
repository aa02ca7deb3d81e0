"""/v1/models and /v1/datasets: manifest, files, complete. Both work alike, so one function builds both routers."""

import asyncio
import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AfterValidator, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.dependencies import CallerDep, OnceDep, ReadDep, SessionDep, SettingsDep, StorageDep, WriterDep
from app.api.long_poll import change_poller, parse_wait
from app.api.openapi import RAW_BODY, RAW_PART, headers, problems
from app.api.paging import PageSize, PageToken, answer_page
from app.api.schemas import DatasetCreate, ManifestPage, ModelCreate
from app.core.errors import (
    AlreadySealed,
    BytesQuotaExceeded,
    ChecksumMismatch,
    IncompleteUpload,
    InUse,
    OffsetMismatch,
    QuotaExceeded,
    SizeMismatch,
    TooManyParts,
)
from app.core.redaction import redact_paths
from app.core.schemas import Out, Page
from app.store import resources
from app.store.db import reading
from app.store.keyset import newest_page
from app.store.models import Dataset, File, Model
from app.store.uploads import UploadTarget, append_part, find_progress, receive_file
from compression.schema.errors import CompressionError


class FileOut(Out):
    """A file of a manifest, and whether its bytes have arrived."""

    path: str
    size: int
    sha256: str
    uploaded: bool


class ManifestOut(Out):
    """How much of a manifest is listed."""

    file_count: Annotated[int, Field(description="Files of the whole manifest.")]
    listed: Annotated[int, Field(description="Those that it lists so far.")]


class ResourceListed(Out):
    """A model or a dataset in a list: without its files."""

    id: str
    name: str
    state: Literal["uploading", "validating", "ready", "rejected"]
    file_count: int
    bytes: Annotated[int, Field(description="Of all its files, as its manifest declares them.")]
    facts: Annotated[dict[str, Any] | None, Field(description="Of a network of images, without its layers in lists.")]
    reasons: Annotated[list[dict[str, Any]], AfterValidator(redact_paths)]
    created_at: dt.datetime


class DatasetListed(ResourceListed):
    """A dataset in a list, with its layout and without its files."""

    task: str
    data: dict[str, Any]


class ResourceOut(ResourceListed):
    """A model or a dataset."""

    files: Annotated[list[FileOut], Field(description="The first 1,000 by path; `GET …/files` lists all.")]


class DatasetOut(ResourceOut):
    """A dataset with its layout."""

    task: str
    data: dict[str, Any]


def resource_listed(row: Model | Dataset) -> ResourceListed:
    """Return a model or a dataset as a list shows it."""
    kind = DatasetListed if isinstance(row, Dataset) else ResourceListed
    found = kind.model_validate(row)
    if found.facts and found.facts.get("network"):  # hundreds of layers
        found.facts = {**found.facts, "network": None}
    return found


def file_out(file: File) -> FileOut:
    """Return a file of a manifest."""
    return FileOut(path=file.path, size=file.size, sha256=file.sha256, uploaded=file.key is not None)


def resource_out(session: Session, row: Model | Dataset) -> ResourceOut:
    """Return a model or a dataset with its first files."""
    files = [file_out(file) for file in resources.list_files(session, row, MOST_SHOWN)[0]]
    kind = DatasetOut if isinstance(row, Dataset) else ResourceOut
    return kind(**resource_listed(row).model_dump() | {"facts": row.facts}, files=files)


def _new_model(team: str, body: ModelCreate) -> Model:
    return Model(team_id=team, name=body.name)


def _new_dataset(team: str, body: DatasetCreate) -> Dataset:
    data = {"format": body.format, "columns": body.columns.model_dump(), "splits": body.splits}
    return Dataset(team_id=team, name=body.name, task=body.task, data=data)


CREATING = problems(QuotaExceeded, BytesQuotaExceeded, CompressionError)
SENDING = problems(AlreadySealed, SizeMismatch, ChecksumMismatch, BytesQuotaExceeded)
EXTENDING = problems(AlreadySealed, OffsetMismatch, SizeMismatch, ChecksumMismatch, TooManyParts, BytesQuotaExceeded)
LISTING = problems(AlreadySealed, CompressionError)
MOST_SHOWN = 1000
"""Files of one answer."""
PROGRESS = ("Upload-Offset", "Upload-Complete", "Cache-Control")


def _add_manifest(router: APIRouter, kind: type[Any]) -> None:
    """Add the routes of long manifests: what they list, page by page."""

    @router.get("/{identifier}/files", response_model=Page[FileOut], summary="List the files of a manifest, by path")
    def list_files(
        identifier: str,
        request: Request,
        response: Response,
        session: ReadDep,
        caller: CallerDep,
        page_size: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 200,
        page_token: PageToken = None,
    ) -> Page[FileOut]:
        row = resources.get(session, kind, caller.team, identifier)
        files, token = resources.list_files(session, row, page_size, page_token)
        return answer_page([file_out(file) for file in files], token, request, response)

    @router.post(
        "/{identifier}/files",
        response_model=ManifestOut,
        responses=LISTING,
        summary="Add a page to a manifest; the same page again adds nothing",
    )
    def add_files(identifier: str, body: ManifestPage, session: SessionDep, caller: WriterDep) -> ManifestOut:
        row, listed = resources.add_files(session, kind, caller.team, identifier, body.files)
        return ManifestOut(file_count=row.file_count, listed=listed.files)


def _add_files(router: APIRouter, kind: type[Any]) -> None:
    """Add the routes that receive the files of a manifest."""

    @router.put(
        "/{identifier}/files/{path:path}",
        response_model=FileOut,
        responses=SENDING,
        openapi_extra=RAW_BODY,
        summary="Send one file, raw",
    )
    async def upload(
        identifier: str, path: str, request: Request, caller: WriterDep, storage: StorageDep, settings: SettingsDep
    ) -> FileOut:
        file = await receive_file(request, storage, settings, UploadTarget(kind, caller.team, identifier, path))
        return FileOut(path=file.path, size=file.size, sha256=file.sha256, uploaded=True)

    @router.head(
        "/{identifier}/files/{path:path}",
        status_code=204,
        responses={204: {"headers": headers(*PROGRESS, "Upload-Limit")}},
        summary="Show how much of a file has arrived: Upload-Offset",
    )
    def offset(identifier: str, path: str, caller: CallerDep, settings: SettingsDep) -> Response:
        found = find_progress(UploadTarget(kind, caller.team, identifier, path))
        return Response(status_code=204, headers={**found.headers, "Upload-Limit": f"max-size={settings.max_file_bytes}"})

    @router.patch(
        "/{identifier}/files/{path:path}",
        response_model=FileOut,
        responses={200: {"headers": headers(*PROGRESS)}, **EXTENDING},
        openapi_extra=RAW_PART,
        summary="Send the part of a file from Upload-Offset on, raw",
    )
    async def extend(
        identifier: str,
        path: str,
        request: Request,
        response: Response,
        caller: WriterDep,
        storage: StorageDep,
        settings: SettingsDep,
        upload_offset: Annotated[int, Header(ge=0, le=2**40, description="What HEAD answers.")],
    ) -> FileOut:
        found = await append_part(request, storage, settings, UploadTarget(kind, caller.team, identifier, path), upload_offset)
        response.headers.update(found.headers)
        file = found.file
        return FileOut(path=file.path, size=file.size, sha256=file.sha256, uploaded=found.whole)


def _router(noun: str, kind: type[Any], body_type: Any, listed: Any, out: type[ResourceOut], new: Any) -> APIRouter:
    router = APIRouter(prefix=f"/v1/{noun}s", tags=[f"{noun}s"])

    @router.post("", status_code=201, response_model=out, responses=CREATING, summary=f"Create a {noun} from its manifest")
    def create(body: body_type, session: SessionDep, caller: WriterDep, once: OnceDep) -> Response:
        def make() -> ResourceOut:
            return resource_out(session, resources.create(session, new(caller.team, body), body.files, body.rest))

        return once(session, caller, body, 201, make)

    @router.get("", response_model=Page[listed], summary=f"List {noun}s, newest first, without their files")
    def list_(
        request: Request,
        response: Response,
        session: ReadDep,
        caller: CallerDep,
        page_size: PageSize = 50,
        page_token: PageToken = None,
    ) -> Page[Any]:
        query = select(kind).where(kind.team_id == caller.team, kind.deleted_at.is_(None))
        rows, token = newest_page(session, query, kind.id, page_size, page_token)
        return answer_page([resource_listed(row) for row in rows], token, request, response)

    def read(team: str, identifier: str) -> ResourceOut:
        with reading() as session:
            return resource_out(session, resources.get(session, kind, team, identifier))

    @router.get("/{identifier}", response_model=out, summary=f"Show a {noun}; `Prefer: wait=30` waits for its check")
    async def show(identifier: str, caller: CallerDep, prefer: Annotated[str | None, Header()] = None) -> ResourceOut:
        found = await asyncio.to_thread(read, caller.team, identifier)
        seconds = parse_wait(prefer)
        if seconds and found.state == resources.VALIDATING:
            await change_poller.changed(noun, identifier, found.state, seconds)
            found = await asyncio.to_thread(read, caller.team, identifier)
        return found

    @router.post(
        "/{identifier}/complete",
        status_code=202,
        response_model=out,
        responses=problems(IncompleteUpload),
        summary="Complete an upload, and check its files",
    )
    def complete(identifier: str, session: SessionDep, caller: WriterDep) -> ResourceOut:
        return resource_out(session, resources.complete(session, kind, caller.team, identifier))

    @router.delete(
        "/{identifier}",
        status_code=204,
        response_class=Response,
        responses=problems(InUse),
        summary=f"Delete a {noun} that no unfinished job needs",
    )
    def delete(identifier: str, session: SessionDep, caller: WriterDep) -> None:
        resources.delete(session, kind, caller.team, identifier)

    _add_manifest(router, kind)
    _add_files(router, kind)
    return router


models = _router("model", Model, ModelCreate, ResourceListed, ResourceOut, _new_model)
datasets = _router("dataset", Dataset, DatasetCreate, DatasetListed, DatasetOut, _new_dataset)
