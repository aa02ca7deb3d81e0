"""One attempt at one job: lay out the inputs, run the engine, store what it makes, and write exactly one outcome.

Bytes go to storage before the row that names them; every write carries the fence, and is made again where the reply to its
COMMIT was lost. Whatever goes wrong here ends in a setback (tried again, up to a cap), a failure that the sender can
mend, or, when the job is no longer ours, in silence.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from app.core import crash_points, traces
from app.core.failures import describe_failure
from app.core.settings import Settings
from app.jobs import fencing, jobs
from app.store.storage import Storage
from compression.schema.errors import DeviceError, DiskFull, OutOfMemory
from workers.engine import Engine
from workers.event_relay import Crashed, EventRelay, Failed, Interrupted
from workers.folders import Untrustworthy, private_folder
from workers.job_inputs import input_bytes, needed_bytes, write_inputs
from workers.lease import Lease, Write, persist
from workers.limits import DISK_FULL, InsufficientDisk, reserve_disk

log = structlog.get_logger()
SMALLER = 4
"""Parts in which batches go through the model once memory did not suffice, or the device stumbled."""
AGAIN_SMALLER = frozenset({OutOfMemory.code, DeviceError.code})


def run_attempt(claim: fencing.Claim, settings: Settings, storage: Storage) -> None:
    """Run a claimed job to an outcome, or to its return to the queue. Never raises for what a job can do wrong."""
    names = {"job": claim.job.id, "fence": claim.fence, "request_id": claim.job.request_id}
    with (
        traces.span("attempt", claim.job.traceparent, attempt=claim.job.attempt, **names),
        structlog.contextvars.bound_contextvars(**names, **traces.trace_fields()),
    ):
        _attempt(claim, settings, storage)
    traces.flush()


def _attempt(claim: fencing.Claim, settings: Settings, storage: Storage) -> None:
    log.info("attempt", attempt=claim.job.attempt)
    crash_points.reach("worker_after_claim")
    engine: Engine | None = None
    # The lease is held from before the first byte is fetched: a large model takes longer to copy than a lease lasts.
    lease = Lease(claim, settings, on_lost=lambda: engine.kill() if engine else None)
    lease.start()

    def run(spec: Path, folder: Path, fetched: int) -> None:
        nonlocal engine
        with Engine(spec, folder, settings) as engine:
            EventRelay(claim, folder, storage, lease, engine, settings, fetched=fetched).run()

    try:
        outcome = _outcome(claim, settings, storage, lease, run)
        lease.close()
        if outcome is not None:
            persist(lease, outcome)
    except fencing.StaleFence:
        log.warning("stale", note="another worker has the job, or it is over; nothing was written")
    except DBAPIError as error:
        log.error("outcome_not_written", error=str(error.orig), note="the lease will run out, and the job be taken again")
    finally:
        lease.release()


def _check_interrupts(lease: Lease) -> None:
    """Stop where that is asked for before there is an engine to stop. Raises Interrupted."""
    for reason in ("lost", "cancel", "overdue", "drain"):
        if getattr(lease, reason).is_set():
            raise Interrupted(reason)


def _outcome(
    claim: fencing.Claim, settings: Settings, storage: Storage, lease: Lease, run: Callable[[Path, Path, int], None]
) -> Write | None:
    """Do the work; return the write that says how it ended, or None where that is written already or not ours to write."""

    def setback(error: dict[str, Any], split: int | None = None) -> Write:
        log.warning("setback", **error)
        cap, wait = settings.max_failures, settings.backoff_seconds
        return lambda session: jobs.retry_or_fail(
            session, claim, error, max_failures=cap, backoff_seconds=wait, split_batches=split
        )

    try:
        fetched = input_bytes(claim.job)
        with (
            private_folder(settings.scratch, f"{claim.job.id}-{claim.fence}") as folder,
            reserve_disk(settings.scratch, folder, storage, needed_bytes(claim.job), fetched),
        ):
            run(write_inputs(claim, folder, settings, storage, lambda: _check_interrupts(lease)), folder, fetched)
    except Interrupted as stop:
        log.info("interrupted", reason=stop.reason)
        endings: dict[str, Write] = {
            "cancel": lambda session: jobs.mark_cancelled(session, claim),
            "drain": lambda session: jobs.release(session, claim),
            "overdue": lambda session: jobs.fail(session, claim, describe_failure("deadline_exceeded")),
        }
        return endings.get(stop.reason)
    except Failed as end:
        log.info("failed", **end.error)
        if end.error["code"] in AGAIN_SMALLER and claim.job.split_batches == 1:
            return setback(end.error, SMALLER)
        if end.error["code"] == DiskFull.code:
            return setback(end.error)
        error = end.error
        return lambda session: jobs.fail(session, claim, error)
    except InsufficientDisk as error:
        return setback(DiskFull(str(error)).as_dict())
    except Untrustworthy as error:
        return setback(describe_failure("engine_misbehaved", str(error)))
    except Crashed as error:
        return setback(describe_failure(error.code, str(error)))
    except fencing.StaleFence:
        raise
    except Exception as error:  # storage, disk, database: ours to mend, so the job is tried again
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return setback(DiskFull(f"{error.strerror}: {error.filename or 'storage'}").as_dict())
        log.exception("worker_error")
        return setback(describe_failure("worker_error", f"{type(error).__name__}: {error}"[:500]))
    log.info("succeeded")
    return None
