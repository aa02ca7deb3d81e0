"""A full disk is a clean failure that leaves nothing half, and when there is room again work goes on."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.faults.conftest import LONG, SHORT, SMALL_DISK, SQLITE, Stand, small_disk

pytestmark = [SQLITE, pytest.mark.skipif(not SMALL_DISK, reason="only root may mount the small disks that this fills")]
ONCE = {"LATHE_MAX_FAILURES": "1", "LATHE_LEASE_SECONDS": "20"}
A_WHILE = {**SHORT, "prepare": {"epochs": 10, "rate": 1e-3}}
"""Trains until the disk is full, and then writes."""


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as out:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while out.write(b"x" * size) == size:
                    pass
    assert shutil.disk_usage(folder).free == 0
    return filler


@pytest.fixture
def scratch(stand: Stand, tmp_path: Path) -> Iterator[Path]:
    """A home for a worker on a small disk; storage stays where it was."""
    home = tmp_path / "home"
    with small_disk(home, "256m"):
        yield home


@pytest.fixture
def storage(stand: Stand) -> Iterator[Path]:
    """The storage, which is a small disk; freed at the end whatever happens."""
    folder = stand.service.home / "storage"
    yield folder
    (folder / "filler").unlink(missing_ok=True)


def start(stand: Stand, home: Path | None = None) -> str:
    storage = {"LATHE_STORAGE_URL": f"file://{stand.service.home / 'storage'}"}
    return stand.start_worker(**ONCE, **storage, **({"LATHE_HOME": str(home)} if home else {}))


def test_scratch_that_fills_up_while_the_engine_works(stand: Stand, scratch: Path) -> None:
    name = start(stand, scratch)
    job_id = stand.job(A_WHILE)
    stand.reached(job_id, "started")
    filler = fill(scratch)
    assert stand.over(job_id, "failed")["error"]["code"] == "disk_full"
    stand.bytes_are_those_of_rows()
    wait_for(lambda: not list((scratch / "scratch").glob("job_*")))
    waiting = stand.job(LONG)
    stand.reached(waiting, "released")  # before it began: there is no room to set aside, and another worker may have some
    assert "started" not in [event["type"] for event in stand.events(waiting)]
    filler.unlink()
    stand.reached(waiting, "started")
    assert stand.service.processes[name].poll() is None


def test_storage_that_fills_up_while_the_engine_works(stand: Stand, storage: Path) -> None:
    start(stand)
    job_id = stand.job(SHORT)
    stand.reached(job_id, "started")
    filler = fill(storage)
    assert stand.over(job_id, "failed")["error"]["code"] == "disk_full"
    stand.bytes_are_those_of_rows()
    filler.unlink()
    stand.over(stand.job(SHORT))


@pytest.mark.parametrize("midway", [False, True], ids=["before", "midway"])
def test_an_upload_to_a_full_storage_leaves_nothing(midway: bool, stand: Stand, storage: Path) -> None:
    data = os.urandom(6 << 20)
    manifest = [{"path": "config.json", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
    place = f"/v1/models/{stand.http.post('/v1/models', json={'name': 'm', 'files': manifest}).json()['id']}"

    def body() -> Iterator[bytes]:
        yield data[: 3 << 20]
        if midway:
            fill(storage)
        yield data[3 << 20 :]

    if not midway:
        fill(storage)
    answer = stand.http.put(f"{place}/files/config.json", content=body(), headers={"Content-Length": str(len(data))})
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert not list((storage / ".incoming").iterdir())
    stand.bytes_are_those_of_rows()
    (storage / "filler").unlink()
    assert stand.http.put(f"{place}/files/config.json", content=data).status_code == 200
    assert stand.http.delete(place).status_code == 204
