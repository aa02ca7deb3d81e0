"""What the tests of the service share: sessions on both databases, both places for bytes, and rows to begin with."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.core.settings import Settings
from app.jobs import fencing, jobs
from app.store.db import make_engine
from app.store.models import Job
from app.store.storage import Storage, open_storage
from tests.conftest import Database, free_port, wait_for
from tests.support.rows import submitted

pytest.register_assert_rewrite("tests.support.protocol_world")  # so that rows that differ are shown

WEED = str(Path(sys.executable).with_name("weed"))  # the wheel puts it beside python, which need not be on PATH
ACCESS, SECRET = "lathe", "lathe-secret-for-tests"
SessionMaker = Callable[[], AbstractContextManager[Session]]
NewJob = Callable[..., Job]


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """An engine on a fresh database of each kind."""
    made = make_engine(database.url)
    yield made
    made.dispose()


@pytest.fixture
def transaction(engine: Engine) -> SessionMaker:
    """Opens a session that commits at its end."""

    @contextmanager
    def opened() -> Iterator[Session]:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    return opened


@pytest.fixture
def new_job(transaction: SessionMaker) -> NewJob:
    """Stores a waiting job of a named team, and what it needs."""

    def make(team_name: str = "default", **values: object) -> Job:
        with transaction() as session:
            return submitted(session, team_name, **values)

    return make


@pytest.fixture
def held(transaction: SessionMaker, new_job: NewJob) -> fencing.Claim:
    new_job()
    with transaction() as session:
        claim = jobs.claim(session, "w", 30.0)
    assert claim is not None
    return claim


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a real S3 server with a bucket `lathe` and signed requests."""
    for attempt in range(3):  # a server that finds one of its eight ports taken ends at once
        folder = tmp_path_factory.mktemp(f"s3-{attempt}")
        ports = [free_port() for _ in range(8)]
        process = s3_server(folder, ports)
        try:
            endpoint = f"http://127.0.0.1:{ports[3]}"
            wait_for(partial(ended_or_answers, process, endpoint), every=0.3)
            if process.poll() is not None:
                continue
            master, filer = (f"127.0.0.1:{ports[at]}.{ports[4 + at]}" for at in (0, 2))
            shell, made = [WEED, "shell", f"-master={master}", f"-filer={filer}"], b"s3.bucket.create -name lathe\n"
            subprocess.run(shell, input=made, check=True, capture_output=True, timeout=180)
            yield endpoint
            return
        finally:
            process.kill()
            process.wait()
    raise AssertionError(f"the S3 server ended three times: {(folder / 'log').read_text()[-2000:]}")


def ended_or_answers(process: subprocess.Popen[bytes], endpoint: str) -> bool:
    return process.poll() is not None or httpx.get(endpoint).status_code in {200, 403}


def s3_server(folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    """Start it: master, volume, filer and S3, each with a port and then each with one for gRPC."""
    identity = {"name": "lathe", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    parts = ("master", "volume", "filer", "s3")
    command = [WEED, "server", f"-dir={folder}", "-ip=127.0.0.1", "-s3", f"-s3.config={folder / 's3.json'}"]
    command += [f"-{part}.port={port}" for part, port in zip(parts, ports[:4], strict=True)]
    command += [f"-{part}.port.grpc={port}" for part, port in zip(parts, ports[4:], strict=True)]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # fixed ones, on which a second run of the tests would end
    with (folder / "log").open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out)


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "file":
        return open_storage(Settings(storage_url=f"file://{tmp_path}/store"))
    access = {"s3_access_key_id": ACCESS, "s3_secret_access_key": SECRET, "s3_presign": True}
    endpoint = request.getfixturevalue("s3")
    return open_storage(Settings(storage_url=f"s3://lathe/{tmp_path.name}", s3_endpoint=endpoint, **access))
