"""The check of an upload: a child process parses the files, never the API and never this process."""

import datetime as dt
import signal
import subprocess
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from app.core.failures import describe_failure
from app.core.settings import Settings
from app.store import resources
from app.store.db import reading, writing
from app.store.models import Dataset, Model
from app.store.storage import Storage
from compression.schema.errors import OutOfMemory
from compression.schema.job_spec import Data, DataCheck, ModelCheck
from compression.schema.validation import ModelFacts, Rejected, parse_finding
from workers import engine
from workers.folders import private_folder
from workers.job_inputs import fetch_files
from workers.limits import reserve_disk
from workers.outages import is_outage
from workers.task_lease import TakenOver, TaskLease

log = structlog.get_logger()
PATIENCE, LONGEST_WAIT = 24 * 3600.0, 300.0
"""Seconds of an upload's age from which outages count as failed checks, and most seconds between two tries until then."""
MOST_LAYERS = 10_000
"""Of a model whose facts are taken; configs may have far fewer."""
SMALLER = "Send shorter rows, fewer columns, or a smaller tokenizer."


def check_next(settings: Settings, storage: Storage) -> bool:
    """Claim and check one upload; return whether there was one."""
    # The lease outlives the child's own time limit, so that no second checker starts while the first may still write.
    lease = settings.validation_seconds + settings.lease_seconds
    with writing() as session:
        row = resources.claim_check(session, lease)
    if row is None:
        return False
    if row.check_attempts > resources.MAX_CHECK_ATTEMPTS:
        # Its checkers died before they could report; the oldest goes first, so it would block all others again and again.
        reasons = [describe_failure("check_failed", f"{resources.MAX_CHECK_ATTEMPTS} workers were lost while checking it.")]
        with writing() as session:
            resources.finish_check(session, row, facts=None, reasons=reasons, attempt=row.check_attempts)
        log.error("check_given_up", id=row.id)
    else:
        _check(row, settings, storage, lease)
    return True


def _check(row: Model | Dataset, settings: Settings, storage: Storage, lease: float) -> None:
    attempt = row.check_attempts
    hold = TaskLease(lambda session: resources.renew_check(session, row, attempt, lease), settings.heartbeat_seconds)
    facts: dict[str, Any] | None = None
    reasons: list[dict[str, Any]] = []
    try:
        with private_folder(settings.scratch, f"{row.id}-{attempt}") as folder:
            finding = _run_check(row, folder, settings, storage, hold)
        if isinstance(finding, Rejected):
            reasons = [dict(reason) for reason in finding.reasons]
        else:
            facts = finding.model_dump(mode="json")
    except TakenOver:
        log.warning("check_taken_over", id=row.id, attempt=attempt)
        return
    except subprocess.TimeoutExpired:
        # It would take as long again, and block all other uploads meanwhile.
        reasons = [describe_failure("check_failed", f"It took longer than {settings.validation_seconds:g} s.")]
    except Exception as error:
        reason = _blame_files(error)
        log.warning("check_error", id=row.id, attempt=attempt, exc_info=reason is None, error=str(error))
        if is_outage(error, storage) and (age := _age(row)) < PATIENCE:
            with writing() as session:
                resources.postpone_check(session, row, attempt, max(settings.backoff_seconds, min(age / 10, LONGEST_WAIT)))
            return
        # A child without an answer is our fault, so the check is retried, up to a maximum.
        if reason is None and attempt < resources.MAX_CHECK_ATTEMPTS:
            with writing() as session:
                resources.release_check(session, row, attempt, settings.backoff_seconds)
            return
        reasons = [reason or describe_failure("check_failed", f"{type(error).__name__}")]
    with writing() as session:
        written = resources.finish_check(session, row, facts=facts, reasons=reasons, attempt=attempt)
    log.info("checked", id=row.id, rejected=[reason["code"] for reason in reasons], written=written)


def _age(row: Model | Dataset) -> float:
    """Return the seconds since the last bytes of an upload arrived."""
    return (dt.datetime.now(dt.UTC) - (row.arrived_at or row.created_at)).total_seconds()


def _blame_files(error: Exception) -> dict[str, Any] | None:
    """Return the failure if the files ended the child that read them, and would do so again; else None."""
    if isinstance(error, engine.LimitExceeded) and error.error["code"] != OutOfMemory.code:
        return describe_failure("check_failed", str(error))
    if isinstance(error, engine.LimitExceeded) or (isinstance(error, engine.ChildDied) and error.wants_memory):
        return OutOfMemory("the files take more memory to read than a check may take", remedy=SMALLER).as_dict()
    if isinstance(error, engine.ChildDied) and error.number != signal.SIGKILL:  # which the system may send for others' faults
        return describe_failure(
            "check_failed", f"The process that read the files was ended by {signal.Signals(error.number).name}."
        )
    return None


def _run_check(row: Model | Dataset, folder: Path, settings: Settings, storage: Storage, hold: TaskLease) -> Any:
    """Fetch the files, run the child, and return its finding. Raises TakenOver."""
    root = folder / "files"
    with reading() as session:
        files = resources.stored_files(session, row)
    spec = folder / "spec.json"
    if isinstance(row, Model):
        asked: ModelCheck | DataCheck = ModelCheck(path=str(root))
    else:
        asked = DataCheck(path=str(root), task=row.task, data=Data.model_validate(row.data))
    spec.write_text(asked.model_dump_json(), encoding="utf-8")
    with reserve_disk(settings.scratch, folder, None, 0, sum(file.size for file in files)):
        fetch_files(storage, files, root, hold.renew_if_due)
        hold.renew()
        found = engine.run_query("validate", spec, folder, settings, settings.validation_seconds)
    try:
        finding = parse_finding.validate_json(found)
    except ValidationError as error:
        raise RuntimeError(f"validate wrote no finding: {error}") from error
    # The API computes forecasts with these. A child that a file has taken over may say anything.
    if isinstance(finding, ModelFacts) and not (0 <= finding.shape.layers <= MOST_LAYERS):
        raise RuntimeError(f"validate found {finding.shape.layers} layers")
    return finding
