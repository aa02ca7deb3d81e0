"""The Celery tasks. A message only says that there is work; the table says which. A duplicate message finds nothing to do."""

import os

import structlog

from app.core.settings import get_settings
from app.jobs import jobs
from app.store import broker
from app.store.db import writing
from app.store.storage import get_storage
from workers.celery_app import app, child_activity
from workers.checks import check_next
from workers.folders import sweep
from workers.outages import Rest, find_storage_fault
from workers.predictions import predict_next
from workers.registration import is_draining, own_capacity
from workers.supervisor import run_attempt

log = structlog.get_logger()
rest = Rest()


@app.task(name=broker.task_name(broker.JOBS))
@child_activity.at_work()
def run_jobs() -> None:
    """Claim and run jobs until none is left, or this worker drains or rests."""
    settings, worker_id, storage = get_settings(), os.environ["LATHE_WORKER_ID"], get_storage()
    cap, wait = settings.max_failures, settings.backoff_seconds
    while rest.is_over and not is_draining(worker_id):
        sweep(settings.scratch)
        with writing() as session:
            for job_id in jobs.requeue_orphans(session, worker_id, max_failures=cap, backoff_seconds=wait):
                log.warning("orphan", job=job_id, note="held by this worker's last process, or claimed without an answer")
            capacity = own_capacity(session, worker_id)
            if capacity is None or not jobs.has_waiting_job(session, capacity):
                return
        if (fault := find_storage_fault(storage)) is not None:
            rest.begin(settings, f"storage takes no write: {fault}", worker_id)
            return
        with writing() as session:
            claim = jobs.claim(session, worker_id, settings.lease_seconds, capacity)
        if claim is None:
            return
        if (reason := run_attempt(claim, settings, storage)) is not None:
            rest.begin(settings, reason, worker_id)


@app.task(name=broker.task_name(broker.CHECKS))
@child_activity.at_work()
def run_checks() -> None:
    """Check uploads and answer predictions in turn until none is left or this worker drains."""
    worker_id, settings, storage = os.environ["LATHE_WORKER_ID"], get_settings(), get_storage()
    while not is_draining(worker_id):
        answered, checked = predict_next(settings, storage), check_next(settings, storage)
        if not (answered or checked):
            return
