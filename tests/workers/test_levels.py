"""Which level is used, where it is told, and what happens where there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.settings import Settings
from app.store.db import reading
from app.store.models import Worker
from client.embedded.worker_settings import confinement
from client.errors import CannotStart
from tests.conftest import ROOT
from workers.broker_watchdog import ChildActivity
from workers.registration import Registration
from workers.sandbox import STRONGEST_FIRST, PlaceExposed, find_exposed, find_obstacle, get_sandbox


def run_where(refused: dict[str, int], *arguments: str, home: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python where the kernel refuses some system calls, and new namespaces, as a container runtime does."""
    code = (
        "import json, os, sys\nfrom workers import launcher, seccomp\n"
        "launcher.filter_calls(seccomp.build_filter(json.loads(sys.argv[1])))\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    command = [sys.executable, "-c", code, json.dumps(refused), *arguments]
    env = {**os.environ, "LATHE_HOME": str(home), **environment}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_level_is_in_the_workers_row(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_WORKER_ID", "")  # registering sets it
    presence = Registration("jobs", settings, ChildActivity())
    presence.register()
    with reading() as session:
        found = session.get_one(Worker, presence.worker_id).facts["confinement"]
    assert found == next(level for level in STRONGEST_FIRST if find_obstacle(level) is None)


NO_NAMESPACES = {"unshare": 1, "mount": 1}
NO_LANDLOCK = {**NO_NAMESPACES, "landlock_create_ruleset": 38}


@pytest.mark.parametrize(("refused", "environment"), [(NO_NAMESPACES, {}), ({}, {"PATH": "/nowhere"})])
def test_landlock_is_used_where_nothing_else_is(refused: dict[str, int], environment: dict[str, str], tmp_path: Path) -> None:
    if reason := find_obstacle("landlock+seccomp"):
        pytest.skip(reason)
    assert run_where(refused, "-m", "workers.sandbox", home=tmp_path, **environment).stdout == "landlock+seccomp\n"


@pytest.mark.parametrize("lane", ["jobs", "checks"])
def test_a_worker_refuses_to_start_where_nothing_confines(lane: str, tmp_path: Path) -> None:
    done = run_where(NO_LANDLOCK, "-m", "workers", lane, home=tmp_path)
    assert done.returncode == 1
    assert "cannot_confine: bubblewrap: " in done.stderr
    assert "landlock+seccomp: [Errno 38] not in this kernel" in done.stderr
    assert "LATHE_UNCONFINED=1" in done.stderr


def test_it_starts_all_the_same_where_it_is_told_so(tmp_path: Path) -> None:
    assert run_where(NO_LANDLOCK, "-m", "workers.sandbox", home=tmp_path, LATHE_UNCONFINED="1").stdout == "none\n"


CONFINEMENT = f"""
import os
from pathlib import Path
from client.embedded.worker_settings import confinement, read_settings
from client.errors import CannotStart
home, env = Path(os.environ["LATHE_HOME"]), {{**os.environ, "PYTHONPATH": {str(ROOT)!r}}}
try:
    print(confinement(home, env, read_settings(home, env).unconfined))
except CannotStart as error:
    print(error.cause.partition(":")[0])
"""


def test_the_embedded_set_says_so_itself_and_warns(tmp_path: Path) -> None:
    assert run_where({}, "-c", CONFINEMENT, home=tmp_path).stdout == "{}\n" or find_obstacle("landlock+seccomp")
    done = run_where(NO_LANDLOCK, "-c", CONFINEMENT, home=tmp_path)
    assert done.stdout == "{'LATHE_UNCONFINED': 'true'}\n"
    assert "Warning: nothing confines the engines" in done.stderr


def test_the_embedded_set_does_as_the_home_s_env_file_says(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LATHE_UNCONFINED=false\n")
    refused = run_where(NO_LANDLOCK, "-c", CONFINEMENT, home=tmp_path)
    assert refused.stdout == "cannot_confine\n"
    (tmp_path / ".env").write_text("LATHE_UNCONFINED=true\n")
    assert run_where(NO_LANDLOCK, "-c", CONFINEMENT, home=tmp_path).stdout == "{'LATHE_UNCONFINED': 'true'}\n"
    exposed = {"LATHE_WORDNET": str(tmp_path.parent)}  # engines would read the home
    assert run_where({}, "-c", CONFINEMENT, home=tmp_path, **exposed).stdout == "{'LATHE_UNCONFINED': 'true'}\n"


def test_a_home_that_engines_could_read_is_refused() -> None:
    home = Path(sys.prefix) / "lib" / "lathe"
    assert find_exposed(Settings(home=home, storage_url="s3://elsewhere", database_url="postgresql+psycopg://h/d"))
    assert find_exposed(Settings(home="/srv/lathe/home", wordnet="/srv/lathe")) == (
        "LATHE_HOME (/srv/lathe/home) lies beneath /srv/lathe, which engines read"
    )
    with pytest.raises(PlaceExposed, match="LATHE_HOME") as refused:
        get_sandbox(Settings(home=home))
    assert refused.value.remedy.startswith("Choose another place")
    assert get_sandbox(Settings(home=home, unconfined=True)).level == "none"


def test_the_embedded_set_refuses_such_a_home_and_runs_nothing_unconfined(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "LATHE_WORDNET": str(tmp_path), "LATHE_HOME": str(tmp_path / "home")}
    with pytest.raises(CannotStart, match=r"place_exposed: LATHE_HOME .* lies beneath") as refused:
        confinement(ROOT, env, None)
    assert refused.value.remedy_text.startswith("Choose another place")
    assert confinement(ROOT, env, True) == {"LATHE_UNCONFINED": "true"}
