"""What `lathe up` must know of its workers' settings before it starts them, and what it sets where nobody has."""

import json as jsonlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from client.errors import CannotStart
from client.terminal.output import say


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker reads in the environment and in the home's `.env`."""

    device: str  #: what a worker for jobs computes on: LATHE_DEVICE
    unconfined: bool | None  #: whether engines may run where nothing confines them; None: nobody has said
    stop_seconds: float  #: that a worker for jobs may take from SIGTERM to its end


def read_settings(home: Path, env: dict[str, str]) -> WorkerSettings:
    """Return the settings of workers that start in the home with this environment. Raises CannotStart if one is wrong."""
    command = [sys.executable, "-m", "workers.start_settings"]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotStart(
            f"a setting is wrong: {done.stderr.strip()}", remedy=f"Mend it in the environment or in {home / '.env'}."
        )
    return WorkerSettings(**jsonlib.loads(done.stdout))


def confinement(home: Path, env: dict[str, str], unconfined: bool | None) -> dict[str, str]:
    """Try whether engines can be confined here; return the workers' setting if they cannot.

    A worker refuses to start without confinement. Here the user who runs it also sends the models, and gets a warning if
    nobody has said what to do (`unconfined` is None) or it was allowed. Raises CannotStart if it was not, or if nobody has
    said so and engines are confined here but would read the home.
    """
    done = subprocess.run(
        [sys.executable, "-m", "workers.sandbox"],
        env={**env, "LATHE_UNCONFINED": "false"},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # a Ctrl-C would look as if nothing confines engines here
    )
    if done.returncode == 0:
        return {}
    *_, cause, remedy = ["", "", *done.stderr.strip().splitlines()]
    if unconfined is False or (unconfined is None and cause.startswith("place_exposed: ")):
        raise CannotStart(cause, remedy=remedy)
    say(f"Warning: nothing confines the engines on this machine, so send only models that you trust. {done.stderr.strip()}")
    return {"LATHE_UNCONFINED": "true"}
