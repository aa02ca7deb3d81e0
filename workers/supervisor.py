"""One attempt at one job: fetch the inputs, run the engine, store its results, and write exactly one outcome.

Bytes are stored before the row that names them; every write carries the fence, and is repeated if the reply to its COMMIT was
lost. An error ends in a retry (up to a maximum), in a failure that the sender can fix, or in nothing if the job is no longer
ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core import crash_points, traces
from app.core.failures import describe_failure
from app.core.settings import Settings
from app.jobs import fencing, jobs
from app.jobs.capacity import Capacity, find_lack, live_facts
from app.store.storage import Storage
from compression.schema.errors import DeviceError, DeviceLost, DiskFull, OutOfMemory, RankLost
from workers.attempt_ends import Crashed, Failed, Interrupted
from workers.device_probe import choose_device, find_fault, mark_lost
from workers.engine import Engine
from workers.event_relay import EventRelay
from workers.folders import Untrustworthy, private_folder
from workers.job_inputs import input_bytes, most_cached, needed_bytes, write_inputs
from workers.lease import Lease, Write, persist
from workers.limits import DISK_FULL, InsufficientDisk, reserve_disk
from workers.outages import is_outage

log = structlog.get_logger()
SMALLER = 4
"""Number of parts of each batch after memory ran out or the device failed."""
AGAIN_SMALLER = frozenset({OutOfMemory.code, DeviceError.code})
DEVICE_FAILURES = frozenset({DeviceLost.code, DeviceError.code, RankLost.code})
"""After which the device is probed: if it does not work, the worker takes no more jobs, and this one is not charged with it."""
MACHINE_FAILURES = frozenset({DeviceLost.code, DiskFull.code, RankLost.code})
"""Tried again as it was, up to the maximum."""


def run_attempt(claim: fencing.Claim, settings: Settings, storage: Storage) -> str | None:
    """Run a claimed job until it has an outcome or returns to the queue. Does not raise for errors of the job.

    Returns why this worker can do no other job either, and should rest; else None.
    """
    names = {"job": claim.job.id, "fence": claim.fence, "request_id": claim.job.request_id}
    with (
        traces.span("attempt", claim.job.traceparent, attempt=claim.job.attempt, **names),
        structlog.contextvars.bound_contextvars(**names, **traces.trace_fields()),
    ):
        outcome = _attempt(claim, settings, storage)
    traces.flush()
    return outcome.error["cause"] if isinstance(outcome, Unable) and outcome.concerns_all else None


def _attempt(claim: fencing.Claim, settings: Settings, storage: Storage) -> Write | None:
    log.info("attempt", attempt=claim.job.attempt)
    crash_points.reach("worker_after_claim")
    engine: Engine | None = None
    # The lease is held before the first byte is fetched: copying a large model takes longer than a lease.
    lease = Lease(claim, settings, on_lost=lambda: engine.kill() if engine else None)
    lease.start()
    outcome: Write | None = None

    def run(spec: Path, folder: Path, beside: int) -> None:
        nonlocal engine
        with Engine(spec, folder, settings, device=choose_device(settings)[0], talks=claim.job.devices > 1) as engine:
            EventRelay(claim, folder, storage, lease, engine, settings, beside=beside).run()

    try:
        # Renewed until the outcome is known: probing a device, or removing a large folder, takes longer than a lease.
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
    return outcome


def _check_interrupts(lease: Lease) -> None:
    """Stop on request before there is an engine to stop. Raises Interrupted."""
    for reason in ("lost", "cancel", "overdue", "drain"):
        if getattr(lease, reason).is_set():
            raise Interrupted(reason)


def _outcome(
    claim: fencing.Claim, settings: Settings, storage: Storage, lease: Lease, run: Callable[[Path, Path, int], None]
) -> Write | None:
    """Do the work; return the write of its outcome, or None if that is written already or not ours to write."""

    def setback(error: dict[str, Any], split: int | None = None) -> Write:
        log.warning("setback", **error)
        cap, wait = settings.max_failures, settings.backoff_seconds
        return lambda session: jobs.retry_or_fail(
            session, claim, error, max_failures=cap, backoff_seconds=wait, split_batches=split
        )

    try:
        fetched, needed, most = input_bytes(claim.job), needed_bytes(claim.job), most_cached(claim.job, settings)
        with (
            private_folder(settings.scratch, f"{claim.job.id}-{claim.fence}") as folder,
            reserve_disk(settings.scratch, folder, storage, needed, fetched, most) as cached,
        ):
            spec = write_inputs(claim, folder, settings, storage, lambda: _check_interrupts(lease), cached=cached)
            run(spec, folder, fetched + cached)
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
        if end.error["code"] in DEVICE_FAILURES and (fault := find_fault(settings)) is not None:
            return _give_back(claim, fault, end.error, setback)
        if end.error["code"] in AGAIN_SMALLER and claim.job.split_batches == 1:
            return setback(end.error, SMALLER)
        if end.error["code"] in MACHINE_FAILURES:
            return setback(end.error)
        error = end.error
        return lambda session: jobs.fail(session, claim, error)
    except InsufficientDisk as error:
        return Unable(claim, DiskFull(str(error)).as_dict(), setback, settings.backoff_seconds, error)
    except Untrustworthy as error:
        return setback(describe_failure("engine_misbehaved", str(error)))
    except Crashed as error:
        if (fault := find_fault(settings)) is not None:  # a driver that fails takes the process with it, or its device files
            return _give_back(claim, fault, DeviceLost(str(error)).as_dict(), setback)
        return setback(describe_failure(error.code, str(error)))
    except fencing.StaleFence:
        raise
    except Exception as error:  # our fault, so the job is retried
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return setback(DiskFull(f"{error.strerror}: {error.filename or 'storage'}").as_dict())
        log.exception("worker_error")  # it may have addresses, bucket and keys of the service, so the sender gets its kind
        failure = describe_failure("worker_error", type(error).__name__)
        if is_outage(error, storage):
            return Unable(claim, failure, setback, settings.backoff_seconds)
        return setback(failure)
    log.info("succeeded")
    return None


GIVEN_BACK = 10
"""Attempts after which a job is charged with what its worker could not do, too: it may be what breaks devices."""
GIVEN_BACK_TO_OTHERS = 300
"""Attempts after which it is charged even if another worker may do it: a day, at one each five minutes."""


@dataclass(frozen=True)
class Unable:
    """The write that returns a job which this worker's disk or storage kept from being done."""

    claim: fencing.Claim
    error: dict[str, Any]
    charge: Callable[[dict[str, Any]], Write]  #: returns the write of a failure, for a job that was given back often
    backoff_seconds: float
    disk: InsufficientDisk | None = None  #: what has no room for the job; None: a disk, the storage or the database is away

    @property
    def concerns_all(self) -> bool:
        """Return whether the worker can do no other job either."""
        return self.disk is None or self.disk.full

    def __call__(self, session: Session) -> None:
        """Write it. Raises StaleFence."""
        attempt = self.claim.job.attempt
        if attempt > GIVEN_BACK_TO_OTHERS or (attempt > GIVEN_BACK and not self._suits_others(session)):
            return self.charge(self.error)(session)
        wait = min(self.backoff_seconds * 2.0 ** min(attempt - 1, GIVEN_BACK), jobs.LONGEST_WAIT)
        log.warning("given_back", **self.error, wait_seconds=wait)
        return jobs.release(session, self.claim, {**self.error, "wait_seconds": wait}, wait)

    def _suits_others(self, session: Session) -> bool:
        """Return whether a worker with another disk suits the job: workers of a host share one, and all the storage."""
        if self.disk is None or self.disk.shared:
            return False
        others = live_facts(session, on_other_hosts_than=self.claim.job.worker_id)
        return find_lack(self.claim.job, [Capacity.of(facts) for facts in others]) is None


def _give_back(claim: fencing.Claim, fault: str, error: dict[str, Any], setback: Callable[[dict[str, Any]], Write]) -> Write:
    """Return the write that marks this worker's device as lost and returns the job to the queue.

    No failure is charged to its first attempts: the device is at fault. If it happens again and again, the job may be.
    """
    charged = setback(error) if claim.job.attempt > GIVEN_BACK else None

    def write(session: Session) -> None:
        if charged is None:
            jobs.release(session, claim, error)
        else:
            charged(session)
        mark_lost(session, claim.job.worker_id, fault)

    return write
