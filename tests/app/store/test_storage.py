"""Both places for bytes keep the same promises."""

import asyncio
import io
import os
import threading
import time
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import obstore
import pytest

from app.core.settings import Settings
from app.store.storage import CHUNK, LocalStorage, S3Storage, Storage, open_storage


async def pieces(data: bytes, *, breaks: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 300_000):
        yield data[start : start + 300_000]
    if breaks:
        raise ConnectionError("cut off")


DATA = bytes(range(256)) * 80_000  # 20 MB: several parts on S3


def test_a_stream_comes_back_whole_and_by_range(storage: Storage) -> None:
    asyncio.run(storage.write("a/b", pieces(DATA)))
    assert b"".join(storage.read("a/b", 0, len(DATA))) == DATA
    assert b"".join(storage.read("a/b", 7, CHUNK + 9)) == DATA[7 : CHUNK + 9]
    assert b"".join(storage.read("a/b", 5, 5)) == b""


class SlowS3(BaseHTTPRequestHandler):
    """Sends each range of DATA in eight pieces, slowly."""

    asked: ClassVar[list[tuple[int, int]]] = []

    def do_GET(self) -> None:
        start, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.asked.append((start, last + 1))
        body = DATA[start : last + 1]
        self.send_response(206)
        told = {"Content-Range": f"bytes {start}-{last}/{len(DATA)}", "Content-Length": str(len(body)), "ETag": '"x"'}
        for name, value in {**told, "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}.items():
            self.send_header(name, value)
        self.end_headers()
        for at in range(0, len(body), len(body) // 8):
            self.wfile.write(body[at : at + len(body) // 8])
            time.sleep(0.2)

    def log_message(self, *_: object) -> None: ...


def test_a_large_object_may_come_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Storage, "READ_AT_ONCE", len(DATA) // 2)
    monkeypatch.setattr(S3Storage, "SILENCE_SECONDS", 1.0)  # less than a range takes, and far more than a piece
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowS3) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        access = {"s3_access_key_id": "k", "s3_secret_access_key": "s"}
        storage = open_storage(
            Settings(storage_url="s3://lathe", s3_endpoint=f"http://127.0.0.1:{server.server_port}", **access)
        )
        assert b"".join(storage.read("large", 0, len(DATA))) == DATA
        server.shutdown()
    halves = [(0, len(DATA) // 2), (len(DATA) // 2, len(DATA))]
    assert [one for one in SlowS3.asked if one in halves] == halves
    assert isinstance(storage, S3Storage)
    assert (
        storage.store.client_options["timeout"] == "1day"
    )  # a shorter one would break answers off, and obstore go on once or twice


def test_a_stream_that_breaks_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(storage.write("a/broken", pieces(DATA, breaks=True)))
    assert list(storage.objects("a/")) == []
    with pytest.raises(FileNotFoundError):
        list(storage.read("a/broken", 0, 10))


class Broken(io.BytesIO):
    """A file whose last bytes are not to be had."""

    def read(self, size: int | None = -1, /) -> bytes:
        if found := super().read(size):
            return found
        raise LookupError("not the file that was promised")


@pytest.mark.parametrize("data", [b"short", DATA], ids=["short", "parts"])
def test_a_file_that_breaks_off_leaves_nothing(data: bytes, storage: Storage) -> None:
    with pytest.raises(LookupError, match="promised"):
        storage.put_file("a/broken", Broken(data))
    assert list(storage.objects("")) == []
    if isinstance(storage, LocalStorage):
        assert list((storage.root / ".incoming").iterdir()) == []


def test_files_are_put_listed_fetched_and_deleted(storage: Storage, tmp_path: Path) -> None:
    storage.put_file("x/one", io.BytesIO(b"1"))
    storage.put_file("x/deep/two", io.BytesIO(b"22"))
    storage.put_file("y/three", io.BytesIO(b""))
    assert sorted((found.key, found.size) for found in storage.objects("x/")) == [("x/deep/two", 2), ("x/one", 1)]
    storage.get_file("x/deep/two", tmp_path / "two", 2)
    assert (tmp_path / "two").read_bytes() == b"22"
    storage.delete("x/one")
    storage.delete("x/one")
    assert [found.key for found in storage.objects("x/")] == ["x/deep/two"]


def test_many_are_deleted_in_few_requests(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Storage, "DELETED_AT_ONCE", 2)
    asked, delete = [], obstore.delete
    monkeypatch.setattr(obstore, "delete", lambda store, keys: (asked.append(list(keys)), delete(store, keys)))
    keys = [f"many/{number}" for number in range(5)]
    for key in ("many/0", "many/2", "many/4", "others/0"):
        storage.put_file(key, io.BytesIO(b"1"))
    storage.delete_all(keys)
    assert [found.key for found in storage.objects("")] == ["others/0"]
    assert asked == ([] if isinstance(storage, LocalStorage) else [keys[:2], keys[2:4], keys[4:]])
    storage.delete_all([])


def test_a_presigned_url_needs_no_key(storage: Storage) -> None:
    storage.put_file("p", io.BytesIO(b"public for an hour"))
    url = storage.presign("p")
    assert (url is None) == isinstance(storage, LocalStorage)
    assert not url or httpx.get(url).content == b"public for an hour"


def test_a_local_key_cannot_leave_its_folder(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    with pytest.raises(ValueError, match="leaves"):
        storage.put_file("../out", io.BytesIO(b""))
    assert not (tmp_path / "out").exists()


def test_every_folder_on_the_way_to_a_new_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, target = LocalStorage(tmp_path / "store"), tmp_path / "store" / "jobs/j/1/artifacts/a/model"
    synced, sync = [], os.fsync

    def seen(handle: int) -> None:
        if target.exists():  # before that there is no name yet to keep
            synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    monkeypatch.setattr(os, "fsync", seen)
    storage.put_file("jobs/j/1/artifacts/a/model", io.BytesIO(b"1"))
    assert {tmp_path / "store", *(target.parents[: len(Path("jobs/j/1/artifacts/a").parts)])} <= set(synced)


def test_a_folder_that_a_delete_takes_away_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, replace, taken = LocalStorage(tmp_path), Path.replace, []

    def late(part: Path, target: Path) -> Path:
        if not taken:
            taken.append(target)
            storage.delete("jobs/j/old")
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", late)
    storage.put_file("jobs/j/new", io.BytesIO(b"1"))
    assert taken
    assert [stored.key for stored in storage.objects("")] == ["jobs/j/new"]


def test_workers_may_try_the_storage_at_once_with_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, replace, is_dir, taken = LocalStorage(tmp_path), Path.replace, Path.is_dir, []

    def deleted_when_found(folder: Path) -> bool:  # asked by mkdir about a folder that is there
        if not taken:
            taken.append(folder)
            storage.delete("tried/x")
        return is_dir(folder)

    def deleted_when_there(part: Path, target: Path) -> Path:
        moved = replace(part, target)
        storage.delete("tried/x")
        return moved

    storage.put_file("tried/x", io.BytesIO(b"1"))
    monkeypatch.setattr(Path, "is_dir", deleted_when_found)
    monkeypatch.setattr(Path, "replace", deleted_when_there)
    storage.put_file("tried/x", io.BytesIO(b"1"))
    assert taken == [tmp_path / "tried"]
    assert not (tmp_path / "tried").exists()


def test_what_a_killed_writer_left_is_freed_once_it_is_old(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    old, new = tmp_path / ".incoming" / "old", tmp_path / ".incoming" / "new"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    storage.forget_unfinished(3600)
    assert [part.exists() for part in (old, new)] == [False, True]


def test_the_storage_of_a_home_lies_in_it_whatever_its_name(tmp_path: Path) -> None:
    home = tmp_path / "team #1 100%25"
    storage = open_storage(Settings(home=home, storage_url="", database_url=""))
    asyncio.run(storage.write("key", pieces(DATA)))
    assert [one.name for one in tmp_path.iterdir()] == [home.name]
    assert sum(one.stat().st_size for one in (home / "storage").rglob("*") if one.is_file()) == len(DATA)


def test_a_home_that_no_database_address_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LATHE_HOME must have no"):
        Settings(home=tmp_path / "what?", database_url="")
    assert Settings(home=tmp_path / "what?", database_url="postgresql+psycopg://h/d").home.name == "what?"
