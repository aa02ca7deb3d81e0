"""The first start, and the way back when the only key is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy.orm import Session

from app.auth import authenticate
from app.db import make_engine
from tests.conftest import ROOT, Database


def bootstrap(database: Database, home: Path, *options: str) -> str | None:
    env = {**os.environ, "LATHE_DATABASE_URL": database.url, "LATHE_HOME": str(home)}
    command = [sys.executable, "-m", "app.bootstrap", *options]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    key: str | None = json.loads(done.stdout)["key"]
    return key


def test_a_lost_key_is_replaced_by_whoever_owns_the_database(database: Database, tmp_path: Path) -> None:
    assert bootstrap(database, tmp_path) is None  # the template has its first key already
    made = bootstrap(database, tmp_path, "--key", "spare")
    assert made is not None
    engine = make_engine(database.url)
    with Session(engine) as session:
        old, new = authenticate(session, database.key), authenticate(session, made)
    engine.dispose()
    assert old is not None
    assert new is not None
    assert new.team == old.team
    assert new.key != old.key
