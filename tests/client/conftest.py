"""What the client's tests share: small real HTTP servers, and a file server that can be told to misbehave."""

import contextlib
import hashlib
import json
import json as jsonlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from starlette.types import ASGIApp

from app.jobs import fencing, jobs
from app.store.db import make_engine
from app.store.models import Dataset, Model, Team
from client import config
from client.api import Lathe
from client.terminal import output
from client.types import Artifact, Manifest
from tests.client.embedded import Up, running
from tests.client.figures import DATA_FACTS, MODEL_FACTS
from tests.client.flaky import Flaky
from tests.conftest import Service, free_port, over_sqlite, wait_for


@pytest.fixture(scope="module", autouse=True)
def commands_made_once() -> Iterator[None]:
    """Put the commands together once for a file's tests, and not for each of their calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def printing_for_people() -> None:
    """Forget the --json of a command that an earlier test of this process put together or ran."""
    output.reset()


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@dataclass
class FileServer:
    """Serves files with ranges as the service does, except for what it is told to do wrong."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0
    cut_after: list[int] = field(default_factory=list)
    """For each of the next answers: break the connection off after so many bytes."""
    ranges: bool = True
    stale: bool = False
    """Answer If-Range as if the file had changed."""
    redirect: str | None = None
    url: str = ""

    def app(self) -> FastAPI:
        app = FastAPI()
        app.get("/v1/artifacts/{artifact}/files/{path:path}")(self.get)
        app.get("/elsewhere/{path:path}")(self.get)
        return app

    async def get(self, path: str, request: Request) -> Response:
        self.asked.append(dict(request.headers))
        if self.redirect and request.url.path.startswith("/v1"):
            return RedirectResponse(f"{self.redirect}/elsewhere/{path}?signature=abc", 307)
        content = self.files[path]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        start, stop, status = 0, len(content), 200
        asked = request.headers.get("range")
        if asked and self.ranges and not self.stale and request.headers.get("if-range", etag) == etag:
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop, status = int(first), min(int(last) + 1, len(content)), 206
            if start >= len(content):
                return Response(status_code=416)
        headers = {"ETag": etag, "Content-Length": str(stop - start)}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        end = start + self.cut_after.pop(0) if self.cut_after else stop

        async def body() -> object:
            for at in range(start, min(end, stop), 65536):
                chunk = content[at : min(at + 65536, end, stop)]
                self.sent += len(chunk)
                yield chunk
            if end < stop:
                raise ConnectionAbortedError("told to break off")

        return StreamingResponse(body(), status, headers)

    def artifact(self, **hashes: str) -> Artifact:
        """The manifest of all files; `hashes` replaces true ones."""
        files = tuple(
            Manifest(path=path, size=len(data), sha256=hashes.get(path, hashlib.sha256(data).hexdigest()))
            for path, data in self.files.items()
        )
        return Artifact(id="art_1", name="int8", kind="onnx", stage="distilled", precision="int8", files=files)


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    server = FileServer()
    with served(server.app()) as url:
        server.url = url
        yield server


@pytest.fixture
def lathe(file_server: FileServer) -> Iterator[Lathe]:
    with Lathe(file_server.url, "lathe_id_secret") as made:
        yield made


@pytest.fixture
def flaky() -> Flaky:
    return Flaky()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for the client's config, and no service in the environment."""
    place = tmp_path / "lathe-home"
    monkeypatch.setenv("LATHE_HOME", str(place))
    monkeypatch.delenv("LATHE_URL", raising=False)
    monkeypatch.delenv("LATHE_KEY", raising=False)
    return place


@dataclass
class Ran:
    code: int
    out: str
    err: str


def document(ran: Ran) -> Any:
    """The one JSON document on stdout; nothing else is anywhere."""
    assert ran.out.count("\n") == 1, ran.out
    assert ran.err == ""
    return json.loads(ran.out)


Command = Callable[..., Ran]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], home: Path) -> Command:
    from client.cli import main

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return run


@dataclass
class Live:
    """The real API over SQLite, with no workers: what they would do, a test does through the service's own transitions."""

    service: Service
    engine: Engine

    def ready(self, model_facts: dict[str, Any] = MODEL_FACTS, data_facts: dict[str, Any] = DATA_FACTS) -> tuple[str, str]:
        """Make a model and a dataset that count as checked; return their ids."""
        with Session(self.engine) as session, session.begin():
            team = session.scalars(select(Team).where(Team.operator)).one()
            model = Model(team_id=team.id, name="m", state="ready", facts=model_facts)
            task = data_facts.get("task", "text-classification")
            dataset = Dataset(team_id=team.id, name="d", state="ready", facts=data_facts, task=task, data={})
            session.add_all([model, dataset])
            session.flush()
            return model.id, dataset.id

    def claim(self, job_id: str) -> fencing.Claim:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            found = jobs.claim(session, "wkr_test", 300)
            assert found.job.id == job_id
            return found

    def do(self, claim: fencing.Claim, what: Callable[[Session, fencing.Claim], None]) -> None:
        with Session(self.engine) as session, session.begin():
            what(session, claim)

    def end(self, job_id: str, outcome: Callable[[Session, fencing.Claim], None]) -> None:
        """Claim the job as a worker does, and end it."""
        with Session(self.engine) as session, session.begin():
            claim = jobs.claim(session, "wkr_test", 30)
            assert claim.job.id == job_id
            outcome(session, claim)


@pytest.fixture(scope="session")  # of tests in other folders some run between
def live_service(templates: dict[str, str], valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with over_sqlite(templates, valkey, tmp_path_factory.mktemp("live")) as service:
        engine = make_engine(service.database.url)
        yield Live(service, engine)
        engine.dispose()


@pytest.fixture
def live(live_service: Live, home: Path) -> Live:
    """The live API, which the client's config names."""
    config.save(config.Config(live_service.service.url, live_service.service.database.key), home)
    return live_service


@pytest.fixture
def job(live: Live, command: Command) -> Iterator[str]:
    """A waiting job; cancelled in the end, so that the next test claims its own."""
    model, dataset = live.ready()
    ran = command("submit", "--model", model, "--data", dataset, "--recipe", "quick", "--name", "j", "--json")
    assert ran.code == 0, ran.out
    job_id: str = jsonlib.loads(ran.out)["id"]
    yield job_id
    command("cancel", job_id)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with running(tmp_path / "home") as ready:
        yield ready
