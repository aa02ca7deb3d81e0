"""This process's settings, pointed at a fresh database, for the workers' parts that are driven from inside a test."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.core.settings import Settings, get_settings
from app.store import db
from app.store.storage import LocalStorage
from tests.conftest import Database, Service
from workers.engine import kill_group, start_child
from workers.sandbox import STRONGEST_FIRST, Sandbox, find_obstacle


@pytest.fixture
def settings(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("LATHE_DATABASE_URL", database.url)
    monkeypatch.setenv("LATHE_HOME", str(tmp_path))
    monkeypatch.setenv("LATHE_BROKER_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    db.get_engine.cache_clear()
    yield get_settings()
    db.get_engine().dispose()
    get_settings.cache_clear()
    db.get_engine.cache_clear()


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


@pytest.fixture(scope="module", params=STRONGEST_FIRST)
def confined(request: pytest.FixtureRequest) -> Sandbox:
    if reason := find_obstacle(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return Sandbox(request.param)


@contextmanager
def started(arguments: Sequence[str], folder: Path, sandbox: Sandbox, **more: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a child in a folder, in which it leaves a log; in the end, end it and its group."""
    with (folder / "log").open("wb") as log:
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **more}
        child = start_child(arguments, folder, sandbox, **options)
        try:
            yield child
        finally:
            kill_group(child)


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    service.settings["LATHE_KEEPER_SECONDS"] = "2"  # its rounds are seldom waited for here, and take time from jobs
    service.start_workers("checks", "keeper")
    with service.client() as client:
        yield client
