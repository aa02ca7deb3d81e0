"""The check of an upload ends, whatever its child does, and what it found can be stored."""

import errno
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from app.core.settings import Settings
from app.store import resources
from app.store.clock import now, seconds_between
from app.store.db import writing
from app.store.models import Dataset, File, Model, Team
from app.store.storage import LocalStorage
from tests.client.figures import MODEL_FACTS
from tests.support.examples import tiny_model
from workers import checks, engine, limits

Check = Callable[..., Model]
ONCE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what a child does and its worker does about it; that what came of it can be stored is tested on both."""


@pytest.fixture
def check(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    def checked(child: str, *, changes: dict[str, Any] | None = None, **values: Any) -> Model:
        with writing() as session:
            model = Model(team_id=session.scalars(select(Team.id)).one(), name="m", state=resources.VALIDATING, **values)
            session.add(model)
        monkeypatch.setattr(engine, "engine_command", lambda *_: [sys.executable, "-c", child])
        return checked_again(settings.model_copy(update=changes), tmp_path, model.id)

    return checked


def checked_again(settings: Settings, tmp_path: Path, model: str) -> Model:
    assert checks.check_next(settings, LocalStorage(tmp_path / "store"))
    with writing() as session:
        return session.get_one(Model, model)


@ONCE
def test_a_check_that_takes_too_long_is_not_done_again(check: Check) -> None:
    found = check("import time; time.sleep(60)", changes={"validation_seconds": 2})
    assert (found.state, found.check_attempts) == (resources.REJECTED, 1)
    assert found.reasons[0]["code"] == "check_failed"
    assert "longer than 2 s" in found.reasons[0]["cause"]


def test_an_upload_over_which_checkers_die_is_not_checked_for_ever(check: Check) -> None:
    found = check("", check_attempts=resources.MAX_CHECK_ATTEMPTS)
    assert (found.state, found.reasons[0]["code"]) == (resources.REJECTED, "check_failed")
    assert "3 workers were lost" in found.reasons[0]["cause"]


def test_a_nul_in_a_finding_keeps_nobody_from_storing_it(check: Check) -> None:
    reason = {"code": "c", "cause": "a\0 \\\0 \\u0000", "remedy": "r", "param": "p"}
    child = f"from compression.schema.validation import Rejected; print(Rejected(reasons=({reason!r},)).model_dump_json())"
    found = check(child)
    assert found.state == resources.REJECTED
    assert found.reasons == [{**reason, "cause": "a\ufffd \\\ufffd \\u0000"}]


def test_a_finding_of_more_layers_than_a_model_has_is_not_taken(check: Check) -> None:
    facts = {**MODEL_FACTS, "kind": "model", "shape": {**MODEL_FACTS["shape"], "layers": 10**9}}
    found = check(f"print({json.dumps(facts)!r})", check_attempts=resources.MAX_CHECK_ATTEMPTS - 1)
    assert (found.state, found.facts) == (resources.REJECTED, None)
    assert found.check_attempts == resources.MAX_CHECK_ATTEMPTS


ENDINGS = [
    ("sys.stderr.write('memory allocation of 99999999999999 bytes failed'); os.abort()", "out_of_memory", "memory", 1),
    ('sys.stderr.write("what():  std::bad_alloc"); os.abort()', "out_of_memory", "memory", 1),
    ("os.kill(os.getpid(), 11)", "check_failed", "SIGSEGV", 1),
    ("sys.exit(1)", "check_failed", "RuntimeError", 3),
    ("os.abort()", "check_failed", "SIGABRT", 1),
    ("os.kill(os.getpid(), 9)", "check_failed", "ChildDied", 3),  # perhaps by the system, for what others took
]


@pytest.mark.parametrize(
    ("database", "ending", "code", "cause", "attempts"),
    [*(("sqlite", *one) for one in ENDINGS), *(("postgresql", *one) for one in ENDINGS[-2:])],  # once at once, and after three
    indirect=["database"],
)
def test_what_files_do_to_their_reader_is_not_done_again(
    check: Check, ending: str, code: str, cause: str, attempts: int, settings: Settings, tmp_path: Path
) -> None:
    eager = {"backoff_seconds": 0.0}
    found = check(f"import os, sys; {ending}", changes=eager)
    for _ in range(attempts - 1):
        assert found.state == resources.VALIDATING
        found = checked_again(settings.model_copy(update=eager), tmp_path, found.id)
    assert (found.state, found.check_attempts) == (resources.REJECTED, attempts)
    assert (found.reasons[0]["code"], cause in found.reasons[0]["cause"]) == (code, True)
    assert found.reasons[0]["remedy"]


@ONCE
@pytest.mark.parametrize(
    ("limit", "child", "code", "cause"),
    [
        ({"engine_processes": 5}, "for _ in range(9): os.fork() or time.sleep(60)", "check_failed", "processes"),
        ({"engine_memory_bytes": 80 << 20}, "kept = bytes(1) * (200 << 20)", "out_of_memory", "memory"),
        ({"engine_disk_bytes": 1 << 20}, "open('filler', 'wb').write(os.urandom(4 << 20))", "check_failed", "1,048,576 bytes"),
        ({"engine_disk_bytes": 1 << 20}, "os.write(1, os.urandom(4 << 20))", "check_failed", "1,048,576 bytes"),
    ],
)
def test_a_check_that_takes_too_much_is_ended(check: Check, limit: dict[str, Any], child: str, code: str, cause: str) -> None:
    found = check(f"import os, time\n{child}\ntime.sleep(60)", changes=limit)
    assert (found.state, found.check_attempts, found.reasons[0]["code"]) == (resources.REJECTED, 1, code)
    assert cause in found.reasons[0]["cause"]


def sent(storage: LocalStorage, name: str, content: bytes) -> File:
    storage.put_file(f"uploads/x/{name}", io.BytesIO(content))
    return File(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest(), key=f"uploads/x/{name}")


class Away(LocalStorage):
    """A storage whose files cannot be read."""

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        raise OSError(errno.EIO, f"Input/output error: {key}")


@ONCE
@pytest.mark.parametrize(
    ("age", "tries", "state", "attempts"), [(60.0, 5, resources.VALIDATING, 0), (90_000.0, 3, resources.REJECTED, 3)]
)
def test_an_upload_outlasts_a_storage_that_is_away_for_a_day(
    age: float, tries: int, state: str, attempts: int, settings: Settings, storage: LocalStorage
) -> None:
    with writing() as session:
        arrived = {"state": resources.VALIDATING, "arrived_at": now(-age)}
        model = Model(team_id=session.scalars(select(Team.id)).one(), name="m", **arrived)
        model.files = [sent(storage, "config.json", b"{}")]
        session.add(model)
    for _ in range(tries):
        assert checks.check_next(settings.model_copy(update={"backoff_seconds": 0.0}), Away(storage.root))
        with writing() as session:
            found = session.get_one(Model, model.id)
            wait = session.scalar(select(seconds_between(now(), Model.check_lease_until)))
            found.check_lease_until = None
    assert (found.state, found.check_attempts) == (state, attempts)
    assert wait is None or wait == pytest.approx(age / 10, abs=5)


@ONCE
def test_an_upload_takes_no_room_that_a_job_has_reserved(
    settings: Settings, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "disk_usage", lambda _: SimpleNamespace(free=(64 << 20) + limits.SPARE_BYTES, total=1 << 40))
    reserved = settings.scratch / "job"
    reserved.mkdir(parents=True)
    with writing() as session:
        model = Model(team_id=session.scalars(select(Team.id)).one(), name="m", state=resources.VALIDATING)
        model.files = [sent(storage, "config.json", bytes(1 << 20))]
        session.add(model)
    with limits.reserve_disk(settings.scratch, reserved, None, 64 << 20):
        found = checked_again(settings, storage.root.parent, model.id)
    assert (found.state, found.check_attempts) == (resources.VALIDATING, 0)
    with writing() as session:
        session.get_one(Model, model.id).check_lease_until = None
    assert checked_again(settings, storage.root.parent, model.id).state == resources.REJECTED  # no such model


@ONCE
def test_a_tokenizer_that_asks_for_terabytes_is_refused_at_once(settings: Settings, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    tiny_model(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()}
    longer = {"type": "Replace", "pattern": {"Regex": "."}, "content": "e" * 50}
    normalizer = {"type": "Sequence", "normalizers": [longer] * 8}
    files["tokenizer.json"] = json.dumps({**json.loads(files["tokenizer.json"]), "normalizer": normalizer}).encode()
    with writing() as session:
        model = Model(team_id=session.scalars(select(Team.id)).one(), name="m", state=resources.VALIDATING)
        model.files = [sent(storage, name, content) for name, content in files.items()]
        session.add(model)
    assert checks.check_next(settings, storage)
    with writing() as session:
        found = session.get_one(Model, model.id)
    assert (found.state, found.check_attempts) == (resources.REJECTED, 1)
    assert [reason["code"] for reason in found.reasons] == ["out_of_memory"]
    assert "smaller tokenizer" in found.reasons[0]["remedy"]


@ONCE
def test_a_million_columns_are_refused_at_once(settings: Settings, storage: LocalStorage) -> None:
    commas = "," * 999_998
    wide = f"{commas}text,label\n{commas}good,pos\n{commas}bad,neg\n".encode()
    columns = {"text": "text", "label": "label"}
    with writing() as session:
        owner = session.scalars(select(Team.id)).one()
        data = {"format": "csv", "columns": columns, "splits": {"train": ["wide.csv"]}}
        dataset = Dataset(team_id=owner, name="d", task="text-classification", data=data, state=resources.VALIDATING)
        dataset.files = [sent(storage, "wide.csv", wide)]
        session.add(dataset)
    assert checks.check_next(settings, storage)
    with writing() as session:
        found = session.get_one(Dataset, dataset.id)
    assert (found.state, found.check_attempts) == (resources.REJECTED, 1)
    assert [(reason["code"], reason["param"]) for reason in found.reasons] == [("unreadable_data", "wide.csv")]
    assert "1,000,000 columns" in found.reasons[0]["cause"]
