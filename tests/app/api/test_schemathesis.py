"""Schemathesis, which reads the OpenAPI document as a stranger does, finds nothing that the document does not say.

It runs in an environment of its own (scripts/venvs.py), without chance, against a real API that holds one object of each kind.
"""

import os
import re
import subprocess
from pathlib import Path

from scripts import venvs
from tests.app.api.conftest import new_team
from tests.app.api.owner import Owner, team_of
from tests.conftest import Service

CONFIG = Path(__file__).with_name("schemathesis.toml")


def objects(service: Service) -> dict[str, str]:
    """Make what is kept, and what may be deleted; return them by the names that the configuration knows."""
    found = {}
    with service.client() as http:
        for name in ("KEPT", "GONE"):
            owner = Owner(service, http, team_of(http))
            owner.make()
            found |= {f"{name}_{key.upper()}": value for key, value in owner.objects.items()}
    with service.client(new_team(service)) as http:
        return {**found, "GONE_TEAM_ID": team_of(http)}


def test_schemathesis_finds_nothing(alone: Service, tmp_path: Path) -> None:
    tool = venvs.make("contract").with_name("schemathesis")
    env = {**os.environ, **objects(alone), "LATHE_URL": alone.url, "LATHE_KEY": alone.database.key}
    # Its warnings are about what it could not try: ids in bodies, and rules that no schema can tell.
    command = [tool, "--config-file", CONFIG, "run", f"{alone.url}/openapi.json", "--checks", "all", "--warnings", "off"]
    command += ["--phases", "examples,coverage,fuzzing,stateful"]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2000:]
    assert int(re.findall(r"(\d+) generated", ran.stdout)[0]) > 1000, ran.stdout[-2000:]
    assert "internal_error" not in alone.log("api")
