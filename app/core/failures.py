"""Failures that a job's sender did not cause: machine, worker or a bug of Lathe. docs/errors.md explains each code."""

from typing import Any

RETRY = "Retry the job; if it happens again, report it with the job's id: the worker's log has the rest."

FAILURES: dict[str, tuple[str, str]] = {
    "worker_lost": (
        "The worker stopped answering while it ran this job.",
        "Retry the job; if it happens again, look at the worker's log for out of memory, and lower train.batch.",
    ),
    "engine_crashed": ("The engine ended without a result.", RETRY),
    "engine_misbehaved": ("The engine sent something that its protocol does not allow.", RETRY),
    "engine_stalled": ("The engine showed no progress for longer than LATHE_STALL_SECONDS.", RETRY),
    "too_many_processes": (
        "The engine had more processes, threads or open files than it may.",
        "Retry the job; if it happens again, report it with the job's id, or raise the worker's limit that the cause names.",
    ),
    "deadline_exceeded": (
        "The job's deadline passed before it was done.",
        "Submit it again with a later deadline, a quicker recipe or a higher priority.",
    ),
    "worker_error": ("The worker could not do its part: fetch, store or start.", RETRY),
    "answer_failed": (
        "The models did not answer.",
        "Repeat the request; if it happens again, report it with the id: the worker's log has the rest.",
    ),
    "check_failed": (
        "The check of this upload ended without a result.",
        "Upload the files again; if it happens again, report it with the id: the worker's log has the rest.",
    ),
}
"""Code → (cause, remedy)."""


def describe_failure(code: str, more: str = "") -> dict[str, Any]:
    """Return a failure in the form of a job's `error` or an upload's reason."""
    cause, remedy = FAILURES[code]
    return {"code": code, "cause": f"{cause} {more}".strip(), "remedy": remedy, "param": None}
