"""The check of an upload ends, whatever its child does, and what it found can be stored."""

import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app import resources
from app.db import writing
from app.models import Model, Team
from app.settings import Settings
from app.storage import LocalStorage
from workers import checks, engine


def checked(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, child: str, **values: Any) -> Model:
    """Check a model once, with a child that does as it likes."""
    with writing() as session:
        model = Model(team_id=session.scalars(select(Team.id)).one(), name="m", state=resources.VALIDATING, **values)
        session.add(model)
    monkeypatch.setattr(engine, "command", lambda *_: [sys.executable, "-c", child])
    assert checks.check_next(settings, LocalStorage(tmp_path / "store"))
    with writing() as session:
        return session.get_one(Model, model.id)


def test_a_check_that_takes_too_long_is_not_done_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hurried = settings.model_copy(update={"validation_seconds": 2})
    found = checked(hurried, monkeypatch, tmp_path, "import time; time.sleep(60)")
    assert (found.state, found.check_attempts) == (resources.REJECTED, 1)
    assert found.reasons[0]["code"] == "check_failed"
    assert "longer than 2 s" in found.reasons[0]["cause"]


def test_an_upload_over_which_checkers_die_is_not_checked_for_ever(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = checked(settings, monkeypatch, tmp_path, "", check_attempts=resources.MAX_CHECK_ATTEMPTS)
    assert found.state == resources.REJECTED
    assert found.reasons[0]["code"] == "check_failed"
    assert "3 checkers were lost" in found.reasons[0]["cause"]


def test_a_nul_in_a_finding_keeps_nobody_from_storing_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reason = {"code": "c", "cause": "a\0 \\\0 \\u0000", "remedy": "r", "param": "p"}
    child = f"from compression.report import Rejected; print(Rejected(reasons=({reason!r},)).model_dump_json())"
    found = checked(settings, monkeypatch, tmp_path, child)
    assert found.state == resources.REJECTED
    assert found.reasons == [{**reason, "cause": "a\ufffd \\\ufffd \\u0000"}]
