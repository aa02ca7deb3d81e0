"""A file's raw body goes straight to storage, hashed on the way, at constant memory."""

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.db import reading, writing
from app.errors import ChecksumMismatch, SizeMismatch, StorageFull, TooLarge
from app.ids import new_id
from app.models import Dataset, File, Model
from app.resources import file_arrived, file_to_upload
from app.settings import Settings
from app.storage import Storage

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
ROOM_TO_SPARE = 64 << 20
"""Bytes that an upload leaves free: the database on the same disk must be able to go on."""


class _Meter:
    """Counts and hashes a stream while it passes, and cuts it off when it is longer than was promised."""

    def __init__(self, request: Request, promised: int) -> None:
        self.request, self.promised = request, promised
        self.size, self.hash = 0, hashlib.sha256()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.request.stream():
            self.size += len(chunk)
            if self.size > self.promised:
                raise SizeMismatch(f"more than the {self.promised} bytes that the manifest promises", param="size")
            self.hash.update(chunk)
            yield chunk


def _find(kind: type[Model] | type[Dataset], team: str, identifier: str, path: str) -> File:
    with reading() as session:
        if kind is Model:
            return file_to_upload(session, Model, team, identifier, path)
        return file_to_upload(session, Dataset, team, identifier, path)


def _note(file_id: str, key: str) -> bool:
    with writing() as session:
        return file_arrived(session, file_id, key)


async def receive(
    request: Request,
    storage: Storage,
    settings: Settings,
    kind: type[Model] | type[Dataset],
    team: str,
    identifier: str,
    path: str,
) -> File:
    """Take one file of a manifest; sending it again is harmless.

    The object's key is new each time and the row names it only once the hash was right, so a broken upload is never seen.
    Raises NotFound, AlreadySealed, TooLarge, StorageFull, SizeMismatch, ChecksumMismatch.
    """
    file = await asyncio.to_thread(_find, kind, team, identifier, path)
    if file.size > settings.max_file_bytes:
        raise TooLarge(f"{path} has {file.size} bytes; the limit is {settings.max_file_bytes}", param="size")
    length = request.headers.get("content-length")
    if length is not None and int(length) != file.size:
        raise SizeMismatch(f"Content-Length is {length}, the manifest says {file.size}", param="size")
    free = await asyncio.to_thread(storage.free_bytes)
    if free is not None and free < file.size + ROOM_TO_SPARE:
        raise StorageFull(f"{file.size} bytes do not fit into the {free} that are left")
    meter = _Meter(request, file.size)
    key = f"uploads/{identifier}/{new_id('obj')}"
    try:
        await storage.write(key, aiter(meter))
        if meter.size != file.size:
            raise SizeMismatch(f"{meter.size} bytes came, the manifest says {file.size}", param="size")
        if meter.hash.hexdigest() != file.sha256:
            raise ChecksumMismatch(
                f"the bytes have sha256 {meter.hash.hexdigest()}, the manifest says {file.sha256}", param="sha256"
            )
    except ClientDisconnect as error:
        raise SizeMismatch("the connection ended before the file did", param="size") from error
    except OSError as error:
        await asyncio.to_thread(storage.delete, key)
        if error.errno in NO_ROOM:
            raise StorageFull(f"no room was left while {path} came in") from error
        raise
    except BaseException:
        await asyncio.to_thread(storage.delete, key)
        raise
    # From here on a row may name the bytes, also where the reply to its COMMIT is lost: if none does, they are the keeper's.
    if not await asyncio.to_thread(_note, file.id, key):
        await asyncio.to_thread(storage.delete, key)
    return file
