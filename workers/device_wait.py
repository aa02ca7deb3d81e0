"""Waits for the devices that a job's report has rows of, while the job's lease is renewed."""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.orm import Session

from app.jobs import device_rows, fencing
from app.store.db import reading
from compression.schema.recipe.recipe import JobEvaluate
from compression.schema.report.device_rows import DeviceRow
from compression.schema.report.report import Report
from compression.schema.tasks import TASKS
from workers.lease import AWAY, Lease, persist

log = structlog.get_logger()
POLL = 1.0
"""Seconds between two looks at the profiles."""


def wait_for_devices(
    claim: fencing.Claim, report: Report, lease: Lease, check_interrupts: Callable[[], None]
) -> tuple[DeviceRow, ...]:
    """Request the profiles of evaluate.devices and return their rows, at the latest after evaluate.device_seconds.

    The seconds count from the request, whichever attempt made it; the job's deadline ends them. A database that is away is
    asked again while the lease holds. Raises StaleFence, and what `check_interrupts` raises, as it must once the lease is lost.
    """
    evaluate = JobEvaluate.model_validate(claim.job.evaluate)
    task = report.parts[0].task if report.parts else report.task
    rows: list[DeviceRow | device_rows.Waiting] = []

    def request(session: Session) -> None:
        sequences = TASKS[task].sequences
        rows[:] = device_rows.request_rows(session, claim, report.shipped, evaluate, sequences=sequences)

    persist(lease, request)
    log.info("waiting_for_devices", devices=evaluate.devices)
    while True:
        check_interrupts()
        overdue = lease.overdue.is_set()
        try:
            with reading() as session:
                rows = [
                    (device_rows.read_row(session, row, evaluate.device_seconds, overdue=overdue) or row)
                    if isinstance(row, device_rows.Waiting)
                    else row
                    for row in rows
                ]
        except AWAY as error:
            lease.log.warning("read_again", error=str(error.orig))
        done = tuple(row for row in rows if isinstance(row, DeviceRow))
        if len(done) == len(rows):
            return done
        time.sleep(POLL)
