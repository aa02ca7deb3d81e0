"""An engine that a model file has taken over: each of its tricks ends as `engine_misbehaved` and harms nobody else."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.client.figures import report, row
from tests.conftest import ROOT
from tests.faults.conftest import SHORT, Stand
from tests.faults.hostile_engine import TRICKS
from workers.folders import private_folder

OVERWRITTEN = b"overwritten"
ON_EITHER = {"numbers_that_are_none", "numbers_beyond_all_bounds"}
"""Tricks that aim at the database. The others are tried over one of them."""


def forged(stand: Stand, bystander: Path) -> dict[str, Any]:
    """What the engine needs for its lies: a file that it must not reach, and figures that look right."""
    with stand.engine.connect() as connection:
        query = text("SELECT key, size, sha256 FROM files WHERE model_id = :model ORDER BY size LIMIT 1")
        key, size, digest = connection.execute(query, {"model": stand.model}).one()
    return {
        "victim": {"key": key, "place": str(stand.service.home / "storage" / key), "file": {"size": size, "sha256": digest}},
        "bystander": str(bystander),
        "overwritten": {"size": len(OVERWRITTEN), "sha256": hashlib.sha256(OVERWRITTEN).hexdigest()},
        "artifact": report().artifacts[0].model_dump(mode="json"),
        "row": row("baseline", 1, 1, 1.0, 0.5).model_dump(mode="json"),
        "report": report().model_dump(mode="json"),
    }


@pytest.fixture
def bystander(stand: Stand) -> Iterator[Path]:
    """The folder in which another job of this host has saved its training."""
    with private_folder(stand.service.home / "scratch", "job_bystander-1") as attempt:
        folder = attempt / "out" / "checkpoints"
        (folder / "training-1").mkdir(parents=True)
        (folder / "training-1" / "state").write_text("hours of work")
        yield folder


def start_hostile(stand: Stand, bystander: Path, tmp_path: Path, **settings: str) -> subprocess.Popen[bytes]:
    """Start a worker that runs from a copy of the code in which the engine is the enemy's."""
    for package in ("app", "compression", "workers"):  # as compiled, or each engine would compile it
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy(Path(__file__).parent / "hostile_engine.py", tmp_path / "compression/engine/commands/run.py")
    (tmp_path / "compression/engine/commands/forged.json").write_text(json.dumps(forged(stand, bystander)))
    once = {"LATHE_MAX_FAILURES": "1", "LATHE_LEASE_SECONDS": "20"}
    with stand.with_settings(**once, **settings), (stand.service.home / "jobs-hostile.log").open("ab") as out:
        own = {"cwd": tmp_path, "env": stand.service.env, "stdout": out, "stderr": out}
        process = subprocess.Popen([sys.executable, "-m", "workers", "jobs"], start_new_session=True, **own)
    stand.service.processes["jobs-hostile"] = process
    return process


@pytest.fixture
def worker(stand: Stand, bystander: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    return start_hostile(stand, bystander, tmp_path)


def bytes_of(folder: Path) -> dict[Path, bytes]:
    """Every file beneath and what it holds; what the keeper removes in the meantime is left out."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found[Path(place, name)] = Path(place, name).read_bytes()
    return found


def test_what_an_engine_tries_fails_only_its_own_job(stand: Stand, worker: subprocess.Popen[bytes], bystander: Path) -> None:
    tried = {
        trick.__name__: stand.job({**SHORT, "train": {"seed": number}})
        for number, trick in enumerate(TRICKS)
        if stand.postgres is None or trick.__name__ in ON_EITHER
    }
    uploads = stand.service.home / "storage" / "uploads"
    before = bytes_of(uploads)
    found = {}
    for trick, job_id in tried.items():
        try:
            found[trick] = stand.over(job_id, "failed")["error"]["code"]
        except AssertionError as problem:
            found[trick] = str(problem)[:300]
    assert found == dict.fromkeys(tried, "engine_misbehaved")
    after = bytes_of(uploads)
    # What another test deleted may have gone meanwhile; that nothing went which a row names is seen below.
    assert after == {path: data for path, data in before.items() if path in after}
    assert (bystander / "training-1" / "state").read_text() == "hours of work"
    assert stand.http.get("/v1/jobs?page_size=100").status_code == 200
    assert worker.poll() is None
    stand.bytes_are_those_of_rows()
