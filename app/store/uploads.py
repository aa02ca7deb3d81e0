"""Uploads: a file's raw body goes straight to storage and is hashed on the way; whole (PUT) or in parts (PATCH).

Parts follow the IETF draft of resumable uploads: Upload-Offset gives a part's start, HEAD the start of the next part. Each part
is an object of its own until the last one has arrived; then they are read in order into the file, and hashed.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from fastapi import Request
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect

from app.core.errors import (
    NO_ROOM,
    ChecksumMismatch,
    OffsetMismatch,
    Problem,
    SizeMismatch,
    StorageFull,
    TooLarge,
    TooManyParts,
)
from app.core.ids import new_id
from app.core.settings import Settings
from app.store.db import reading, writing
from app.store.models import Dataset, File, Model, UploadPart
from app.store.resources import delete_parts, find_file, list_parts, record_file, record_part
from app.store.storage import Storage
from app.store.upload_reservation import UploadReservation, reserve_upload

PART_BYTES = 64 << 20
"""A longer PATCH is stored in pieces of this size: if the API dies in the middle, one piece is lost."""
MOST_PARTS = 4096
"""Parts of one file: 256 GiB in pieces. It also keeps clients that send single bytes from filling the table."""


@dataclass(frozen=True)
class UploadTarget:
    """The file that a request uploads, identified by team, owner and path."""

    kind: type[Model] | type[Dataset]
    team: str
    identifier: str
    path: str

    def find(self, *, to_send: bool = True) -> tuple[File, list[UploadPart]]:
        """Return the file and its stored parts. Raises NotFound, AlreadySealed."""
        with reading() as session:
            if self.kind is Model:
                file = find_file(session, Model, self.team, self.identifier, self.path, to_send=to_send)
            else:
                file = find_file(session, Dataset, self.team, self.identifier, self.path, to_send=to_send)
            return file, list_parts(session, file.id)

    def key(self) -> str:
        """Return a new storage key."""
        return f"uploads/{self.identifier}/{new_id('obj')}"


@dataclass(frozen=True)
class UploadProgress:
    """How much of a file has arrived."""

    file: File
    offset: int
    whole: bool

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of the draft."""
        return {"Upload-Offset": str(self.offset), "Upload-Complete": "?1" if self.whole else "?0", "Cache-Control": "no-store"}


class _VerifiedStream:
    """Counts and hashes a stream as it passes, and cuts it off beyond the declared size."""

    def __init__(self, chunks: AsyncIterator[bytes], promised: int, held: UploadReservation) -> None:
        self.chunks, self.promised, self.held = chunks, promised, held
        self.size, self.hash = 0, hashlib.sha256()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.chunks:
            self.size += len(chunk)
            if self.size > self.promised:
                raise SizeMismatch(f"more than the {self.promised} bytes of the manifest", param="size")
            self.hash.update(chunk)
            yield chunk
            await self.held.note_received(len(chunk))

    def check(self, file: File) -> None:
        """Compare what passed with the manifest. Raises SizeMismatch, ChecksumMismatch."""
        if self.size != file.size:
            raise SizeMismatch(f"{self.size} bytes arrived, the manifest says {file.size}", param="size")
        if self.hash.hexdigest() != file.sha256:
            raise ChecksumMismatch(
                f"the bytes have sha256 {self.hash.hexdigest()}, the manifest says {file.sha256}", param="sha256"
            )


class _BodyPieces:
    """Splits a request's body into pieces. If the client disconnects, the body ends early and what arrived is kept."""

    def __init__(self, request: Request, most: int, held: UploadReservation) -> None:
        self.chunks, self.most, self.held = aiter(request.stream()), most, held
        self.taken, self.rest, self.over = 0, b"", False

    async def more(self) -> bool:
        """Wait for the next bytes; return whether there are any. Raises SizeMismatch."""
        while not self.rest and not self.over:
            try:
                self.rest = await anext(self.chunks)
            except (StopAsyncIteration, ClientDisconnect):
                self.over = True
            if self.taken + len(self.rest) > self.most:
                raise SizeMismatch(f"more than the {self.most} bytes that are still to come", param="size")
        return bool(self.rest)

    async def piece(self) -> AsyncIterator[bytes]:
        """Yield the next PART_BYTES of the body, or the rest of it."""
        room = PART_BYTES
        while room and await self.more():
            chunk, self.rest = self.rest[:room], self.rest[room:]
            room -= len(chunk)
            self.taken += len(chunk)
            yield chunk
            await self.held.note_received(len(chunk))


def _record_file(file_id: str, key: str) -> tuple[bool, list[str]]:
    with writing() as session:
        return record_file(session, file_id, key), delete_parts(session, file_id)


def _record_part(part: UploadPart) -> bool:
    with writing() as session:
        return record_part(session, part)


def _delete_parts(file_id: str) -> list[str]:
    with writing() as session:
        return delete_parts(session, file_id)


def _delete_objects(storage: Storage, *keys: str) -> None:
    for key in keys:
        storage.delete(key)


def _check_size(settings: Settings, file: File) -> None:
    if file.size > settings.max_file_bytes:
        raise TooLarge(f"{file.path} has {file.size} bytes; the limit is {settings.max_file_bytes}", param="size")


@contextlib.contextmanager
def _report_full_disk(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StorageFull(f"the disk became full during the upload of {path}") from error
        raise


async def _store(storage: Storage, place: UploadTarget, file: File, meter: _VerifiedStream) -> None:
    """Write a whole file under a new key, record the key once the file is verified, and free its parts.

    The row is written last, so a broken upload is never visible. Raises SizeMismatch, ChecksumMismatch, StorageFull.
    """
    key = place.key()
    try:
        with _report_full_disk(file.path):
            await storage.write(key, aiter(meter))
        meter.check(file)
    except BaseException:
        await asyncio.to_thread(storage.delete, key)
        raise
    # From here on a row may name the bytes, even if the reply to its COMMIT is lost. If none does, the keeper frees them.
    mine, parts = await asyncio.to_thread(_record_file, file.id, key)
    await asyncio.to_thread(_delete_objects, storage, *parts, *(() if mine else (key,)))


async def receive_file(request: Request, storage: Storage, settings: Settings, place: UploadTarget) -> File:
    """Receive one file of a manifest, whole; sending it again is harmless.

    Raises NotFound, AlreadySealed, TooLarge, StorageFull, BytesQuotaExceeded, SizeMismatch, ChecksumMismatch.
    """
    file, _ = await asyncio.to_thread(place.find)
    length = request.headers.get("content-length")
    if length is not None and int(length) != file.size:
        raise SizeMismatch(f"Content-Length is {length}, the manifest says {file.size}", param="size")
    _check_size(settings, file)
    try:
        async with reserve_upload(storage, place.team, file.size) as held:
            await _store(storage, place, file, _VerifiedStream(request.stream(), file.size, held))
    except ClientDisconnect as error:
        raise SizeMismatch("the connection ended before the file did", param="size") from error
    return file


def find_progress(place: UploadTarget, *, to_send: bool = False) -> UploadProgress:
    """Return how much of a file has arrived. Raises NotFound, and AlreadySealed if bytes are `to_send` but not accepted."""
    file, parts = place.find(to_send=to_send)
    whole = file.key is not None
    return UploadProgress(file, file.size if whole else sum(part.size for part in parts), whole)


async def append_part(
    request: Request, storage: Storage, settings: Settings, place: UploadTarget, offset: int
) -> UploadProgress:
    """Receive the part of a file that starts at `offset`; after the last part, join the parts and verify the file.

    If the client disconnects, what arrived is kept. An empty part repeats the last step. If the file is not the declared one,
    all of it must be sent again. Raises what `receive_file` does, OffsetMismatch and TooManyParts.
    """
    now = await asyncio.to_thread(find_progress, place, to_send=True)
    file = now.file
    if offset != now.offset:
        raise _mismatch(offset, now)
    left, length = file.size - now.offset, request.headers.get("content-length")
    if length is not None and int(length) > left:
        raise SizeMismatch(f"Content-Length is {length}, and {left} bytes are still to come", param="size")
    _check_size(settings, file)
    async with reserve_upload(
        storage, place.team, left + file.size
    ) as held:  # at the end the file and its parts exist side by side for a moment
        pieces = _BodyPieces(request, left, held)
        await _store_pieces(storage, place, file, pieces, offset)
        if not now.whole and offset + pieces.taken == file.size:
            await _join_parts(storage, place, file, held)
    return await asyncio.to_thread(find_progress, place)


async def _store_pieces(storage: Storage, place: UploadTarget, file: File, pieces: _BodyPieces, offset: int) -> None:
    """Store the body piece by piece. Raises TooManyParts, StorageFull, OffsetMismatch."""
    while await pieces.more():
        part = UploadPart(file_id=file.id, start=offset + pieces.taken, key=place.key())
        if len((await asyncio.to_thread(place.find))[1]) >= MOST_PARTS:
            raise TooManyParts(f"{file.path} has {MOST_PARTS} parts and is not complete")
        try:
            with _report_full_disk(file.path):
                await storage.write(part.key, pieces.piece())
        except BaseException:
            await asyncio.to_thread(storage.delete, part.key)
            raise
        part.size = offset + pieces.taken - part.start
        key = part.key
        if not await asyncio.to_thread(_record_part, part):
            await asyncio.to_thread(storage.delete, key)
            raise _mismatch(offset, await asyncio.to_thread(find_progress, place))


def _mismatch(offset: int, now: UploadProgress) -> Problem:
    cause = f"the part begins at {offset}, and {now.offset} bytes of {now.file.path} are stored"
    return OffsetMismatch(cause, param="Upload-Offset", headers=now.headers)


async def _join_parts(storage: Storage, place: UploadTarget, file: File, held: UploadReservation) -> None:
    """Join the parts into the file. If it is not the declared one, drop them and raise ChecksumMismatch."""
    _, parts = await asyncio.to_thread(place.find)

    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            async for chunk in iterate_in_threadpool(storage.read(part.key, 0, part.size)):
                yield chunk

    try:
        await _store(storage, place, file, _VerifiedStream(chunks(), file.size, held))
    except FileNotFoundError:
        if not (await asyncio.to_thread(find_progress, place)).whole:  # an identical request was first, and freed them
            raise
    except ChecksumMismatch:
        await asyncio.to_thread(_delete_objects, storage, *await asyncio.to_thread(_delete_parts, file.id))
        raise
