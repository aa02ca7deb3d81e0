"""Both places for bytes keep the same promises."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from app.storage import CHUNK, LocalStorage, Storage, open_storage
from tests.conftest import free_port, wait_for

WEED = str(Path(sys.executable).with_name("weed"))  # the wheel puts it beside python, which need not be on PATH
ACCESS, SECRET = "lathe", "lathe-secret-for-tests"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a real S3 server with a bucket `lathe` and signed requests."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {"name": "lathe", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = [free_port() for _ in range(4)]
    master, volume, filer, port = (str(number) for number in ports)
    grpc = [str(free_port()) for _ in range(4)]
    command = [
        WEED,
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        "-s3",
        f"-s3.port={port}",
        f"-s3.config={folder / 's3.json'}",
        "-master.volumeSizeLimitMB=64",
        f"-master.port.grpc={grpc[0]}",
        f"-volume.port.grpc={grpc[1]}",
        f"-filer.port.grpc={grpc[2]}",
        f"-s3.port.grpc={grpc[3]}",
        "-s3.port.iceberg=0",  # these two have fixed ports, on which a second run of the tests would end
        "-s3.port.lance=0",
        "-volume.max=20",
    ]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx.get(endpoint).status_code in {200, 403}, every=0.3)
        subprocess.run(
            [WEED, "shell", f"-master=127.0.0.1:{master}.{grpc[0]}", f"-filer=127.0.0.1:{filer}.{grpc[2]}"],
            input=b"s3.bucket.create -name lathe\n",
            check=True,
            capture_output=True,
            timeout=60,
        )
        yield endpoint
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "file":
        return open_storage(Settings(storage_url=f"file://{tmp_path}/store"))
    return open_storage(
        Settings(
            storage_url=f"s3://lathe/{tmp_path.name}",
            s3_endpoint=request.getfixturevalue("s3"),
            s3_access_key_id=ACCESS,
            s3_secret_access_key=SECRET,
            s3_presign=True,
        )
    )


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


def test_a_stream_that_breaks_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(storage.write("a/broken", pieces(DATA, breaks=True)))
    assert list(storage.objects("a/")) == []
    with pytest.raises(FileNotFoundError):
        list(storage.read("a/broken", 0, 10))


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


def test_a_presigned_url_needs_no_key(storage: Storage) -> None:
    storage.put_file("p", io.BytesIO(b"public for an hour"))
    url = storage.presign("p")
    if isinstance(storage, LocalStorage):
        assert url is None
    else:
        assert url is not None
        assert httpx.get(url).content == b"public for an hour"


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


def test_what_a_killed_writer_left_is_freed_once_it_is_old(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    old, new = tmp_path / ".incoming" / "old", tmp_path / ".incoming" / "new"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    storage.forget_unfinished(3600)
    assert [part.exists() for part in (old, new)] == [False, True]
