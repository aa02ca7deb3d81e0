"""Stored bytes: in a folder or in S3. An object is complete under its key or absent; rows that name it are written last.

The service makes the keys (never from a client's path alone); an object is written once and never changed.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import S3Store

from app.core.settings import Settings, get_settings

CHUNK = 1 << 20
"""Bytes moved at once: large enough for speed, small enough for constant memory."""
MAX_ATTEMPTS = 10
"""Attempts to put a file into a folder that is being deleted."""


class Stored(NamedTuple):
    """An object in a listing."""

    key: str
    size: int
    modified: datetime


class Source(Protocol):
    """An open file, or anything with the same `read`."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; nothing at the end."""


class Storage(ABC):
    """What the service needs of a storage. All but `write` may block: call them off the event loop."""

    @abstractmethod
    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store a stream in constant memory. If it breaks off, nothing stays under the key."""

    @abstractmethod
    def put_file(self, key: str, source: Source) -> None:
        """Store what `source` yields until it ends. If reading fails, nothing stays under the key."""

    @abstractmethod
    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from start up to stop. Raises FileNotFoundError."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; it may be gone already."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete objects; they may be gone already."""
        for key in keys:
            self.delete(key)

    @abstractmethod
    def objects(self, prefix: str) -> Iterator[Stored]:
        """List the objects under a prefix."""

    def presign(self, key: str) -> str | None:  # noqa: ARG002
        """Return a URL that gives anyone the object for a while; None if the storage has no such URLs."""
        return None

    def free_bytes(self) -> int | None:
        """Return the free space, or None if it is unlimited."""
        return None

    def forget_unfinished(self, seconds: float) -> None:  # noqa: ARG002
        """Delete what killed writers left unfinished and nobody has touched for so long."""
        return

    def get_file(self, key: str, target: Path, size: int, check_stop: Callable[[], None] = lambda: None) -> None:
        """Copy an object to a local file, completely or not at all. `check_stop` is called all along and may raise."""
        part = target.with_name(f".{target.name}.part")
        with part.open("wb") as out:
            for chunk in self.read(key, 0, size):
                check_stop()
                out.write(chunk)
        part.replace(target)


class LocalStorage(Storage):
    """A folder. Writes go temp → fsync → rename → fsync of the folder, so that a power cut leaves nothing incomplete."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".incoming").mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"key leaves the storage: {key!r}")
        return path

    def _incoming(self) -> Path:
        return self.root / ".incoming" / secrets.token_hex(12)

    def _move_into_place(self, part: Path, key: str) -> None:
        target, root = self._path(key), self.root.resolve()
        for left in reversed(range(MAX_ATTEMPTS)):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
                break
            # A deletion removed the folder that we just created, or found there, because it was empty.
            except (FileNotFoundError, FileExistsError):
                if not left or not part.exists():
                    raise
        # The name is durable only once every folder above it is synced, and we cannot know which of them are new.
        for folder in target.parents:
            if not folder.is_relative_to(root):
                break
            try:
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # the object is deleted already, as workers do that try the storage at once
                if folder == root:
                    raise
                continue
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """See Storage. Disk operations run in a thread, one buffer at a time."""
        part = self._incoming()
        try:
            with await asyncio.to_thread(part.open, "wb") as out:
                buffer = bytearray()
                async for chunk in chunks:
                    buffer += chunk
                    if len(buffer) >= CHUNK:
                        await asyncio.to_thread(out.write, buffer)
                        buffer = bytearray()
                await asyncio.to_thread(_write_durably, out, buffer)
            await asyncio.to_thread(self._move_into_place, part, key)
        finally:
            part.unlink(missing_ok=True)

    def put_file(self, key: str, source: Source) -> None:
        """See Storage."""
        part = self._incoming()
        try:
            with part.open("wb") as out:
                for chunk in _chunks(source):
                    out.write(chunk)
                _write_durably(out, b"")
            self._move_into_place(part, key)
        finally:
            part.unlink(missing_ok=True)

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """See Storage."""
        with self._path(key).open("rb") as source:
            source.seek(start)
            left = stop - start
            while left > 0 and (chunk := source.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk

    def delete(self, key: str) -> None:
        """See Storage. Deletes folders that became empty, too."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root.resolve():
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def objects(self, prefix: str) -> Iterator[Stored]:
        """See Storage."""
        # Starts at the deepest folder that the prefix names completely, so that listing one job does not walk all of them.
        # Objects that are deleted meanwhile are skipped.
        for folder, _, names in os.walk(self.root / prefix.rpartition("/")[0]):
            for name in names:
                path = Path(folder) / name
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not key.startswith(".incoming"):
                    with contextlib.suppress(FileNotFoundError):
                        facts = path.stat()
                        yield Stored(key, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    def forget_unfinished(self, seconds: float) -> None:
        """See Storage."""
        for part in (self.root / ".incoming").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > seconds:
                    part.unlink()

    def free_bytes(self) -> int | None:
        """See Storage."""
        return shutil.disk_usage(self.root).free


def _chunks(source: Source) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def _write_durably(out: BinaryIO, rest: bytes | bytearray) -> None:
    out.write(rest)
    out.flush()
    os.fsync(out.fileno())


class S3Storage(Storage):
    """A bucket, through obstore. Large objects are sent in parts, a few at a time, so memory stays bounded."""

    PART = 8 << 20
    READ_AT_ONCE = 64 << 20
    """Bytes of one GET. obstore goes on where a connection broke, but for three minutes of a GET only."""
    DELETED_AT_ONCE = 1000
    SILENCE_SECONDS = 30.0
    """How long a server may send nothing. How long a whole answer takes depends on its size, and on who reads it."""

    def __init__(self, bucket: str, prefix: str, settings: Settings) -> None:
        secret = settings.s3_secret_access_key
        plain_http = (settings.s3_endpoint or "").startswith("http://")
        self.presigns = settings.s3_presign
        self.store = S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            access_key_id=settings.s3_access_key_id,
            secret_access_key=secret.get_secret_value() if secret else None,
            virtual_hosted_style_request=settings.s3_endpoint is None,
            client_options={
                "allow_http": plain_http,
                "read_timeout": timedelta(seconds=self.SILENCE_SECONDS),
                "timeout": timedelta(days=1),  # obstore's own is 30 seconds, until the last byte
            },
        )

    async def write(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """See Storage."""
        await obstore.put_async(self.store, key, chunks, use_multipart=True, chunk_size=self.PART, max_concurrency=2)

    def put_file(self, key: str, source: Source) -> None:
        """See Storage."""
        obstore.put(self.store, key, _chunks(source), use_multipart=True, chunk_size=self.PART, max_concurrency=2)

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """See Storage."""
        try:
            for begin in range(start, stop, self.READ_AT_ONCE):
                found = obstore.get(self.store, key, options={"range": (begin, min(stop, begin + self.READ_AT_ONCE))})
                for chunk in found.stream(min_chunk_size=CHUNK):
                    yield bytes(chunk)
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(key) from error

    def delete(self, key: str) -> None:
        """See Storage."""
        try:
            obstore.delete(self.store, key)
        except (NotFoundError, FileNotFoundError):
            return

    def delete_all(self, keys: Sequence[str]) -> None:
        """See Storage. A request deletes a thousand."""
        for start in range(0, len(keys), self.DELETED_AT_ONCE):
            obstore.delete(self.store, keys[start : start + self.DELETED_AT_ONCE])

    def objects(self, prefix: str) -> Iterator[Stored]:
        """See Storage."""
        for page in obstore.list(self.store, prefix.rstrip("/") or None):
            for item in page:
                yield Stored(item["path"], item["size"], item["last_modified"])

    def presign(self, key: str) -> str | None:
        """See Storage."""
        return obstore.sign(self.store, "GET", key, timedelta(hours=1)) if self.presigns else None


def open_storage(settings: Settings) -> Storage:
    """Open the storage that `storage_url` names. Raises ValueError for an unknown scheme."""
    url = urlsplit(settings.storage_url)
    if url.scheme == "file":
        return LocalStorage(Path(unquote(url.path)))
    if url.scheme == "s3":
        return S3Storage(url.netloc, url.path.strip("/"), settings)
    raise ValueError(f"LATHE_STORAGE_URL: unknown scheme {url.scheme!r}; use file:///folder or s3://bucket/prefix")


@lru_cache
def get_storage() -> Storage:
    """Return this process's storage."""
    return open_storage(get_settings())
