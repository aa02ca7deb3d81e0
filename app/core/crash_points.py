"""Named crash points: places in the code where a test or `make chaos` can kill a process, as a power cut would.

`LATHE_CRASH_AT=point` kills the first process that reaches the point, and every later one; `point:/path/mark` kills only
the process that creates the file. Several points are separated by commas. If it is unset, as outside tests, a point costs
one lookup in an empty dictionary.
"""

import os
import signal
from pathlib import Path

POINTS = (
    "api_before_commit",
    "api_after_commit",
    "worker_after_claim",
    "worker_in_baseline",
    "worker_in_quantized",
    "worker_in_pruned",
    "worker_in_distilled",
    "worker_in_point2",
    "worker_training_saved",
    "worker_artifact_stored",
    "worker_stage_recorded",
    "worker_before_final_commit",
    "worker_after_final_commit",
    "keeper_after_reap",
    "keeper_before_purge_recorded",
)
"""All crash points; tests/faults kills at each."""

_marks = {point: mark for point, _, mark in (entry.partition(":") for entry in os.environ.get("LATHE_CRASH_AT", "").split(","))}


def reach(point: str) -> None:
    """Kill this process at once if the point was requested."""
    mark = _marks.get(point)
    if mark is None:
        return
    if mark:
        try:
            Path(mark).touch(exist_ok=False)
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
