"""Error tables of a tiny encoder that a solver has cut, as its engine stores them, and a service's job that has them."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from compression.engine.tables_checkpoint import FOLDER
from tests.app.api.conftest import insert, sha
from tests.compression.engine.stages.test_solved_widths import encoder_state
from tests.conftest import Service
from tests.support.stage_runs import prune

TARGET = 0.4  #: that the job's own cut was solved for


@cache
def solved_tables(*, free: bool = False) -> dict[str, bytes]:
    """Return the files that a cut leaves beside a job's checkpoints, by name; made once a process. free: with widths of each
    layer.
    """
    with TemporaryDirectory() as folder:
        state = encoder_state(Path(folder), target_params=TARGET, free_widths=free)
        list(prune(state))
        return {path.name: path.read_bytes() for path in (Path(folder) / FOLDER).iterdir()}


def store_tables(service: Service, job: str, *, free: bool = False, **changes: bytes) -> None:
    """Store the tables of a job as a worker does. changes: other contents, by a file's name without its ending."""
    files, place = [], f"jobs/{job}/1/checkpoints/tables"
    for name, own in solved_tables(free=free).items():
        content = changes.get(name.partition(".")[0], own)
        kept = service.home / "storage" / place / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        files.append({"path": name, "size": len(content), "sha256": sha(content)})
    insert(service, "checkpoints", job_id=job, stage="tables", fence=1, prefix=place, files=json.dumps(files))
