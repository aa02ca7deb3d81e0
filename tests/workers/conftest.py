"""This process's settings, pointed at a fresh database, for the workers' parts that are driven from inside a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.settings import Settings, get_settings
from app.store import db
from tests.conftest import Database


@pytest.fixture
def settings(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """This process's settings, pointed at a fresh database and a folder."""
    monkeypatch.setenv("LATHE_DATABASE_URL", database.url)
    monkeypatch.setenv("LATHE_HOME", str(tmp_path))
    monkeypatch.setenv("LATHE_BROKER_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    db.get_engine.cache_clear()
    yield get_settings()
    db.get_engine().dispose()
    get_settings.cache_clear()
    db.get_engine.cache_clear()
