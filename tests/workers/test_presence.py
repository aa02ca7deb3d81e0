"""A worker's parent says that it lives while its children are born: none of them may inherit what the parent holds."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from sqlalchemy import delete

from app.core.settings import Settings, get_settings
from app.jobs import queue_forecast
from app.store.db import reading, writing
from app.store.models import Job, Worker
from app.store.storage import LocalStorage
from tests.conftest import ROOT, fresh_database
from tests.support.rows import do, submitted
from workers import tasks
from workers.broker_watchdog import ChildActivity
from workers.limits import augmentation, lm_eval, machine_memory
from workers.registration import Registration, is_draining

FORKS = """
import os, sqlite3, sys, threading
from app.store import db
from app.core.settings import get_settings
from workers.broker_watchdog import ChildActivity
from workers.registration import Registration

settings = get_settings()
presence = Registration("jobs", settings, ChildActivity())
presence.register()
stopped = threading.Event()

def beat():
    while not stopped.is_set():
        presence.beat(False)

thread = threading.Thread(target=beat)
thread.start()
locked = 0
for _ in range(40):
    child = os.fork()
    if not child:
        db.get_engine().dispose(close=False)
        connection = sqlite3.connect(settings.database_url.removeprefix("sqlite:///"), timeout=60, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        locked += 1
        break
stopped.set()
thread.join()
print(locked)
"""


def test_a_child_born_while_the_parent_writes_finds_the_database_free(templates: dict[str, str], tmp_path: Path) -> None:
    with fresh_database("sqlite", "", templates, tmp_path) as database:
        env = {**os.environ, "LATHE_DATABASE_URL": database.url, "LATHE_HOME": str(tmp_path / "home")}
        done = subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "0"


def test_a_forgotten_worker_is_known_again_and_can_be_told_to_stop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_WORKER_ID", "")  # put back at the end
    presence = Registration("jobs", settings, ChildActivity())
    presence.register()
    with writing() as session:
        session.execute(delete(Worker))  # as the keeper does once nothing was heard for a day
    presence.beat(True)
    assert is_draining(presence.worker_id)
    presence.beat(True)
    with reading() as session:
        row = session.get_one(Worker, presence.worker_id)
        assert (row.kind, row.pid, row.facts) == ("jobs", os.getpid(), presence.facts)


def test_a_worker_takes_by_its_engine_s_limit_not_its_machine_s(
    settings: Settings, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "get_storage", lambda: storage)
    monkeypatch.setenv("LATHE_WORKER_ID", "")
    monkeypatch.setenv("LATHE_ENGINE_MEMORY_BYTES", str(1 << 30))
    get_settings.cache_clear()
    narrow, taken = get_settings(), list[str]()
    monkeypatch.setattr(tasks, "run_attempt", lambda claim, *_: taken.append(claim.job.id))
    presence = Registration("jobs", narrow, ChildActivity())
    presence.register()
    assert presence.facts["memory_bytes"] == 1 << 30 < machine_memory()
    with writing() as session:
        large = submitted(session, memory_bytes=(1 << 30) + 1)
        assert large.memory_bytes < machine_memory()
    assert not presence.work_waits()
    tasks.run_jobs()
    with reading() as session:
        place = queue_forecast.find_position(session, session.get_one(Job, large.id))
    assert (taken, place and place.waits_for) == ([], "memory")
    small = do(submitted, memory_bytes=1 << 30)
    assert presence.work_waits()
    tasks.run_jobs()
    assert taken == [small.id]


def test_a_worker_tells_what_jobs_may_name(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opus-mt-en-es", "masked"):
        (tmp_path / "helpers" / name).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "apertium"
    program.write_text("#!/bin/sh\n[ \"$1\" = -l ] && printf '  spa-eng\\n  eng-spa\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert augmentation(settings) == {"wordnet": False, "helper_models": [], "apertium": ["eng-spa", "spa-eng"]}
    rich = settings.model_copy(update={"helper_models": tmp_path / "helpers", "wordnet": tmp_path})
    helped = {"helper_models": ["masked", "opus-mt-en-es"], "apertium": ["eng-spa", "spa-eng"]}
    assert augmentation(rich) == {"wordnet": True, **helped}
    assert lm_eval(settings) == {"version": version("lm_eval"), "data": False}
    assert lm_eval(settings.model_copy(update={"lm_eval_data": tmp_path}))["data"]
    program.unlink()
    monkeypatch.setenv("PATH", str(program.parent))
    assert augmentation(settings)["apertium"] == []
