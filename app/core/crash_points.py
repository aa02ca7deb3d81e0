"""Named crash points: places at which a test or `make chaos` may have a process killed, as a power cut would.

`LATHE_CRASH_AT=point` kills the first process that reaches the point, and every later one; `point:/path/mark` kills one
process only, the one that makes the file. Several are separated by commas. Unset, as it is outside tests, a point costs one
look into an empty dictionary.
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
    "worker_training_saved",
    "worker_artifact_stored",
    "worker_stage_recorded",
    "worker_before_final_commit",
    "worker_after_final_commit",
    "keeper_after_reap",
    "keeper_before_purge_recorded",
)
"""Every point there is; tests/faults kills at each."""

_marks = {point: mark for point, _, mark in (entry.partition(":") for entry in os.environ.get("LATHE_CRASH_AT", "").split(","))}


def reach(point: str) -> None:
    """Die here, at once and without a last word, where that was asked for."""
    mark = _marks.get(point)
    if mark is None:
        return
    if mark:
        try:
            Path(mark).touch(exist_ok=False)
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
